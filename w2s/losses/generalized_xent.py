"""Generalised cross-entropy (Zhang and Sabuncu 2018, section 3.2).

    L = sum_c y_c (1 - f_c^q) / q

f is the student, y the label, soft or not. It goes from cross-entropy (q to 0) to the mean absolute
error, which noisy labels harm less (q = 1). Burns et al. (2023, appendix B) tried it for
weak-to-strong generalization.

B examples, C classes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput


def generalized_xent_loss(logits_BC: Tensor, targets_BC: Tensor, q: float) -> Tensor:
    """Generalised cross-entropy [B]: 0 to 1 / q."""
    # 1 - p^q = -(exp(q log p) - 1), to full precision for p near 1 and q near 0.
    return -(targets_BC * torch.expm1(q * logits_BC.log_softmax(1))).sum(1) / q


class GeneralizedXent(Loss):
    """Generalised cross-entropy, between cross-entropy and the mean absolute error."""

    kind: Literal["generalized_xent"] = "generalized_xent"
    """Name of the loss."""
    q: float = Field(default=0.7, gt=0, le=1)
    """Towards 0: cross-entropy; 1: mean absolute error. The paper: 0.7."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Generalised cross-entropy of each example."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        return LossOutput(generalized_xent_loss(logits_BC, batch.targets_BC, self.q))
