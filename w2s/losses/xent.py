"""Cross-entropy to the labels.

On weak labels this is naive finetuning (Burns et al. 2023, section 3), on ground truth the ceiling.
Label smoothing mixes the labels with the uniform distribution (Szegedy et al. 2016, section 7).

B examples, C classes.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput


def harden(probabilities_BC: Tensor) -> Tensor:
    """One-hot of the most probable class; the first one of equals."""
    num_classes = probabilities_BC.shape[1]
    return functional.one_hot(probabilities_BC.argmax(1), num_classes).to(probabilities_BC.dtype)


def smooth(probabilities_BC: Tensor, amount: float) -> Tensor:
    """Labels mixed with the uniform distribution: (1 - amount) y + amount / C."""
    return (1 - amount) * probabilities_BC + amount / probabilities_BC.shape[1]


class Xent(Loss):
    """Cross-entropy to the labels."""

    kind: Literal["xent"] = "xent"
    """Name of the loss."""
    hard: bool = False
    """Learn from the label's most probable class in place of its probabilities."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the uniform distribution in the labels, mixed in after `hard`."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Cross-entropy of each example."""
        targets_BC = harden(batch.targets_BC) if self.hard else batch.targets_BC
        targets_BC = smooth(targets_BC, self.label_smoothing)
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        return LossOutput(functional.cross_entropy(logits_BC, targets_BC, reduction="none"))
