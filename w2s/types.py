"""Small values that travel between the parts of the science.

`Split` names the four parts of a task. `Row` is one classification example with its label; it
exists only between a task and the two stages that write prompts and ground truth to separate files.
`LossOutput` is what a loss returns, `Acceleration` how passes are computed.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["weak_train", "strong_train", "val", "test"]
SPLITS: tuple[Split, ...] = ("weak_train", "strong_train", "val", "test")
TrainSplit = Literal["weak_train", "strong_train", "both"]
"""What a classifier learns: the rows of one split, or of both."""


def splits_of(train_split: TrainSplit) -> tuple[Split, ...]:
    """The splits that a classifier learns."""
    return ("weak_train", "strong_train") if train_split == "both" else (train_split,)


@dataclass(frozen=True, slots=True)
class Row:
    """One classification example."""

    row_id: str
    """Stable id from the content of the row."""
    group: str
    """Rows of one group (question, entity, premise) stay in one split."""
    prompt: str
    """What a model reads; ends where the head reads."""
    label: int
    """Ground truth, 0 to num_classes - 1."""
    options: tuple[str, ...] = ()
    """For a choice among whole texts, the text of each option, one per class: a one-logit head
    scores each of them, and the scores are the logits. Empty: the classes are read off `prompt`."""
    question: str = ""
    """The question alone, where `prompt` also proposes an answer; empty: it proposes none."""


@dataclass(frozen=True, slots=True)
class TaskData:
    """The rows of a task by split, and what its loader wants people to know."""

    rows: dict[Split, list[Row]]
    notes: list[str] = field(default_factory=list)
    """One sentence each: leaks found and dropped, rows balanced away, sources used."""


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How the passes of a training are computed; results stay the same, up to rounding."""

    micro_batch_tokens: int | None = None
    """Tokens of a forward pass at most, padding included (a longer row goes alone); None: no
    limit but that of the rows."""
    compile: bool = False
    """Whether `torch.compile` makes one kernel of many."""
    activation_checkpointing: bool = False
    """Whether blocks keep their inputs alone and compute the rest once more when gradients need
    it: a third more arithmetic, a fraction of the memory."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """What a loss returns for one batch."""

    losses_B: "Tensor"
    """Loss of each example of the part, in nats; the trainer weighs and averages them."""
    metrics: "dict[str, float | Tensor]" = field(default_factory=dict)
    """Numbers for the training curve, as means over the part's examples; a scalar tensor is read
    only when the curve is, so that no step waits for the device."""
