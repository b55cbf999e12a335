"""The auxiliary confidence loss as OpenAI published it in code, quirks included.

    L = CE(f(x), (1 - w) f_w(x) + w f_t(x))

as in `confidence` (Burns et al. 2023, appendix A.4), with what openai/weak-to-strong's
`logconf_loss_fn` does and the paper does not say:

* w = aux_coef times the share of training done until the warm-up ends, then aux_coef at once: with
  the defaults it climbs to 0.05 and jumps to 0.5.
* The threshold is the quantile of P(class 0) over the update (linear between rows) at the mean weak
  probability of class 1; a row at or above it is hardened to class 0. Rows at equal probabilities,
  such as those of a saturated student, are hardened alike.

Use it to reproduce their numbers, `confidence` for the paper's loss. Two classes only.

B examples of the part, N examples of the whole update, C = 2 classes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses.base import Batch, Loss, require_two_classes
from w2s.types import LossOutput


def published_weight(progress: float, aux_coef: float, warmup_fraction: float) -> float:
    """Weight of the student's own prediction, with the jump at the end of the warm-up."""
    return aux_coef * (1.0 if progress > warmup_fraction else progress)


def quantile_threshold(logits_NC: Tensor, weak_NC: Tensor) -> Tensor:
    """Threshold on P(class 0), a scalar, from the student's logits and weak labels of an update."""
    share_class_1 = weak_NC.float().mean(0)[1].clamp(0, 1)
    return torch.quantile(logits_NC.float().softmax(1)[:, 0], share_class_1)


def harden_at(logits_BC: Tensor, threshold: Tensor) -> Tensor:
    """One-hot [B, 2]: class 0 where P(class 0) >= threshold, else class 1; without gradient."""
    is_class_0_B = logits_BC.detach().float().softmax(1)[:, 0] >= threshold
    return torch.stack([is_class_0_B, ~is_class_0_B], 1).float()


class ConfidenceOpenAI(Loss):
    """The confidence loss as in OpenAI's published code: its weight jumps after the warm-up."""

    kind: Literal["confidence_openai"] = "confidence_openai"
    """Name of the loss."""
    aux_coef: float = Field(default=0.5, ge=0, le=1)
    """Weight of the student's own prediction after the warm-up."""
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    """Share of training after which the weight jumps."""

    @property
    def needs_whole_batch(self) -> bool:
        """The threshold is that of the whole update."""
        return True

    def check_classes(self, num_classes: int) -> None:
        """Refuse a task that has not two classes."""
        require_two_classes(self, num_classes, instead="confidence")

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Confidence loss of each example, with the threshold of the whole update."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        self.check_classes(logits_BC.shape[1])
        logits_NC, weak_NC = batch.whole_logits_NC, batch.whole_targets_NC
        if logits_NC is None or weak_NC is None:
            logits_NC, weak_NC = logits_BC.detach(), batch.targets_BC
        hard_BC = harden_at(logits_BC, quantile_threshold(logits_NC, weak_NC))
        weight = published_weight(progress, self.aux_coef, self.warmup_fraction)
        targets_BC = (1 - weight) * batch.targets_BC + weight * hard_BC
        agreement = (hard_BC.argmax(1) == batch.targets_BC.argmax(1)).float().mean()
        return LossOutput(
            functional.cross_entropy(logits_BC, targets_BC, reduction="none"),
            {"confidence_weight": weight, "hardened_agreement": agreement},
        )
