"""Product loss: learn from the weak label times the student's own belief.

The "product" variant of Burns et al. 2023 as in their published code (openai/weak-to-strong,
`loss.py`): target proportional to p_strong^beta * p_weak^alpha, renormalised, no gradient through
it. It needs no batch statistics. (The published class also takes a warm-up fraction, which it never
reads; there is none here.)

B examples, C classes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput


def product_targets(logits_BC: Tensor, weak_BC: Tensor, alpha: float, beta: float) -> Tensor:
    """softmax(beta log p_strong + alpha log p_weak), without gradient.

    A weak probability of 0 is taken as the smallest positive float32, so that one-hot labels are
    allowed.
    """
    log_weak_BC = weak_BC.clamp_min(torch.finfo(torch.float32).tiny).log()
    return (beta * logits_BC.detach().log_softmax(1) + alpha * log_weak_BC).softmax(1)


def product_loss(logits_BC: Tensor, weak_BC: Tensor, alpha: float, beta: float) -> Tensor:
    """Cross-entropy [B], in nats, of the student to the product targets."""
    targets_BC = product_targets(logits_BC, weak_BC, alpha, beta)
    return functional.cross_entropy(logits_BC, targets_BC, reduction="none")


class Product(Loss):
    """Cross-entropy to the renormalised product of weak label and the student's own prediction."""

    kind: Literal["product"] = "product"
    """Name of the loss."""
    alpha: float = Field(default=1.0, ge=0)
    """Power of the weak label's probabilities; 0 ignores them."""
    beta: float = Field(default=1.0, ge=0)
    """Power of the student's own probabilities; 0 is plain cross-entropy (for alpha = 1)."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Product loss of each example."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        return LossOutput(product_loss(logits_BC, batch.targets_BC, self.alpha, self.beta))
