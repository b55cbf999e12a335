"""Kullback-Leibler divergence from the weak labels to the student.

    L = KL(f_w || f) = CE(f, f_w) - H(f_w)

f is the student, f_w the weak label. It teaches what soft cross-entropy does, but is 0 for a
student that agrees: its value is the student's misfit to its supervisor (2501.19105).

B examples, C classes.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput


def kl_loss(logits_BC: Tensor, weak_BC: Tensor) -> Tensor:
    """KL(weak || student) [B], in nats; a class without weak probability counts nothing."""
    return functional.kl_div(logits_BC.log_softmax(1), weak_BC, reduction="none").sum(1)


class KL(Loss):
    """KL divergence from the weak labels to the student."""

    kind: Literal["kl"] = "kl"
    """Name of the loss."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """KL(weak || student) of each example."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        return LossOutput(kl_loss(logits_BC, batch.targets_BC))
