"""Kullback-Leibler divergence from the student to the weak labels.

    L = KL(f || f_w) = -sum_c f_c log f_w,c - H(f)

f is the student, f_w the weak label; the gradient goes through the student in both terms. Unlike
cross-entropy it may leave out a class that the label holds, but not take in one that the label
rules out. (On reverse losses in weak-to-strong generalization: 2505.24313.)

B examples, C classes.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput


def clamp_labels(weak_BC: Tensor, min_probability: float) -> Tensor:
    """Labels with every probability raised to at least a floor, then scaled to add up to 1."""
    clamped_BC = weak_BC.clamp_min(min_probability)
    return clamped_BC / clamped_BC.sum(1, keepdim=True)


def reverse_kl_loss(logits_BC: Tensor, weak_BC: Tensor, min_probability: float) -> Tensor:
    """KL(student || weak) [B], in nats, with weak probabilities as in `clamp_labels`."""
    logprobs_BC = logits_BC.log_softmax(1)
    log_weak_BC = clamp_labels(weak_BC, min_probability).log()
    return (logprobs_BC.exp() * (logprobs_BC - log_weak_BC)).sum(1)


class ReverseKL(Loss):
    """KL divergence from the student to the weak labels."""

    kind: Literal["reverse_kl"] = "reverse_kl"
    """Name of the loss."""
    min_probability: float = Field(default=1e-6, gt=0, lt=0.1)
    """Weak probabilities below it are raised to it, and each label is then scaled to add up to 1:
    without it, a class that the label rules out would cost an infinite loss."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """KL(student || weak) of each example."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        return LossOutput(reverse_kl_loss(logits_BC, batch.targets_BC, self.min_probability))
