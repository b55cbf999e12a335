"""What a corpus is, and the phases it puts a model through.

A `Corpus` names what a rung reads and gives the `curriculum`: a list of `Phase`s that
`w2s.training.pretraining.pretrain` runs one after the other. A phase yields updates; an update is a
list of `RowGroup`s, and its loss is the sum over groups of weight times mean cross-entropy over
that group's targets. A phase with a `Criterion` goes on until the criterion holds and fails loudly
at its step cap; one without takes exactly `max_steps`. Either way its last `cooldown_steps` lower
the learning rate.

B rows, T tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from w2s.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from w2s.tasks.base import Task
    from w2s.training.optim import LearningRates

NO_TARGET = -100
"""Marks a position of `RowGroup.targets_BT` that carries no loss."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of one length whose targets share one mean."""

    input_ids_BT: "Tensor"
    """Token ids (int64); padding only on the right, and no target on it."""
    targets_BT: "Tensor"
    """The token to predict after reading positions 0..t (already shifted), or `NO_TARGET`."""
    weight: float = 1.0
    """Factor of this group's mean cross-entropy in the loss of the update."""
    early_exit_BT: "Tensor | None" = None
    """Targets that the layer before the last must predict too (bool); None: none."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """When a phase has taught what it should."""

    evaluate: Callable[["PreTrainedModel"], dict[str, float]]
    """Measures the model, in evaluation mode and without gradient."""
    thresholds: Mapping[str, float]
    """Measures that must all reach these values before the cool-down begins."""
    check_every: int = 50
    """Optimizer steps between two measurements."""
    final_thresholds: Mapping[str, float] | None = None
    """What must hold after the cool-down; None: `thresholds` again."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a pretraining run."""

    name: str
    """Name in curves and messages."""
    updates: Callable[[int], Iterator[list[RowGroup]]]
    """Updates for a seed, equal on every replica, endless or long enough; the loop cuts them up."""
    learning_rates: "LearningRates"
    """Peak learning rates by kind of parameter."""
    max_steps: int
    """Optimizer steps, cool-down included; with a criterion, the cap."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    cooldown_steps: int = 100
    """Steps of linear decay at the end."""
    final_fraction: float = 0.02
    """Learning rate at the very end, as a fraction of the peak."""
    early_exit_weight: float = 0.0
    """Weight of the loss at the layer before the last."""
    criterion: Criterion | None = None
    """None: the phase takes exactly `max_steps`."""


class Corpus(Spec):
    """What a model reads while it is pretrained."""

    kind: str
    """Name of the corpus: the name of its file."""

    def bind(self, task: "Task", tasks: "tuple[Task, ...]" = ()) -> Self:
        """This corpus for models that will be asked `task`, one of the sweep's `tasks`.

        Bound alike for all tasks, one ladder serves them all; else each task gets its own.

        Raises:
            UserError: the corpus cannot serve this task.
        """
        return self

    def fingerprint(self) -> str:
        """Digest of data outside this spec; empty when the fields say it all."""
        return ""

    def tokenizer(self, cache: Path | None = None) -> "PreTrainedTokenizerFast":
        """The tokenizer of every model pretrained on this corpus.

        Args:
            cache: folder where a trained tokenizer may be kept; None: train it again.
        """
        raise NotImplementedError

    def curriculum(self, tokenizer: "PreTrainedTokenizerFast") -> list[Phase]:
        """The phases of a pretraining run, in order."""
        raise NotImplementedError

    def cost(self, size: int) -> float:
        """Estimated seconds on one core to pretrain a model.

        Args:
            size: its parameters without the embedding tables.
        """
        raise NotImplementedError
