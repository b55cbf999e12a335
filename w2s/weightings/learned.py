"""One weight a member, learnt beside the student (RAVEN 2025, 2510.21332).

The weights start equal. After the first epochs each update moves them by gradient descent on the
same loss, takes values under 1e-6 as 1e-6, and scales them to a sum of 1. The gradient of a weight
is the mean loss of its member's labels, so weight goes to the members whose labels the student can
learn. RAVEN's classifier mixes the members' logits into one label; here it is their losses that are
mixed, so that it works with every loss.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from w2s.errors import UserError
from w2s.weightings.base import Weighting, uniform

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_WEIGHT = 1e-6


class Learned(Weighting):
    """One weight a member, learnt by gradient descent beside the student."""

    learned: ClassVar[bool] = True

    kind: Literal["learned"] = "learned"
    """Name of the weighting."""
    learning_rate: float = Field(default=1e-2, gt=0)
    """Step of the weights a nat of loss and an optimizer step."""
    uniform_epochs: int = Field(default=1, ge=0)
    """Passes over the rows before the weights begin to move."""

    def check_epochs(self, epochs: int) -> None:
        """Refuse a student that ends before the weights begin to move."""
        if epochs <= self.uniform_epochs:
            raise UserError(
                f"learned weights begin to move after {self.uniform_epochs} epochs, but the "
                f"student learns for {epochs}: lower `weights.uniform_epochs` or raise the "
                "student's epochs"
            )

    def weights(self, logprobs_NMC: NDArray[np.floating]) -> NDArray[np.float64]:
        """The start: 1 / M each."""
        return uniform(*logprobs_NMC.shape[:2])

    def update(self, weights_M: "Tensor", gradient_M: "Tensor", epoch: int) -> "Tensor":
        """A step down the gradient, back to weights of at least 1e-6 with a sum of 1."""
        if epoch < self.uniform_epochs:
            return weights_M
        moved_M = (weights_M - self.learning_rate * gradient_M).clamp_min(SMALLEST_WEIGHT)
        return moved_M / moved_M.sum()
