"""Cross-entropy to the weak labels with a term that makes the student sure of itself.

f is the student, f_w the weak label, w a weight that rises over the first part of training:

    mixture            CE(f, (1 - w) f_w + w f) = (1 - w) CE(f, f_w) + w H(f)
    mixture_detached   the same, f taken as a constant in the target
    penalty            CE(f, f_w) + w H(f)
    squared            CE(f, f_w) + w (1 - sum_c f_c^2) / 2

`mixture` is EleutherAI's entropy loss (Experiments in Weak-to-Strong Generalization, 2024), and
`mixture_detached` what their code computes: its gradient is (1 - w) times that of cross-entropy,
for the student's pull on itself cancels out. `penalty` and `squared` are the confidence terms of
Burns et al. (2023, appendix B): entropy, with the sign that makes it small, and with two classes
1/4 - (f - 1/2)^2.

B examples, C classes.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses._schedule import ramp
from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput

Form = Literal["mixture", "mixture_detached", "penalty", "squared"]


def entropy(logits_BC: Tensor) -> Tensor:
    """Entropy [B] of the student's prediction, in nats."""
    logprobs_BC = logits_BC.log_softmax(1)
    return -(logprobs_BC.exp() * logprobs_BC).sum(1)


def entropy_loss(logits_BC: Tensor, weak_BC: Tensor, weight: float, form: Form) -> Tensor:
    """The loss [B] of one of the forms above, in nats."""
    if form == "mixture_detached":
        targets_BC = (1 - weight) * weak_BC + weight * logits_BC.detach().softmax(1)
        return functional.cross_entropy(logits_BC, targets_BC, reduction="none")
    to_weak_B = functional.cross_entropy(logits_BC, weak_BC, reduction="none")
    if form == "mixture":
        return (1 - weight) * to_weak_B + weight * entropy(logits_BC)
    if form == "penalty":
        return to_weak_B + weight * entropy(logits_BC)
    return to_weak_B + weight * (1 - logits_BC.softmax(1).square().sum(1)) / 2


class Entropy(Loss):
    """Cross-entropy to the weak labels, and low entropy of the student's predictions."""

    kind: Literal["entropy"] = "entropy"
    """Name of the loss."""
    form: Form = "mixture"
    """`mixture` of weak label and prediction (EleutherAI), `mixture_detached` (their code), or an
    added entropy `penalty` or its `squared` kin (Burns et al.)."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the term after the warm-up."""
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of training over which the weight rises from 0; 0: full weight from the start."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Entropy loss of each example."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        weight = self.weight * ramp(progress, self.warmup_fraction)
        return LossOutput(
            entropy_loss(logits_BC, batch.targets_BC, weight, self.form),
            {"entropy_weight": weight, "student_entropy": entropy(logits_BC.detach()).mean()},
        )
