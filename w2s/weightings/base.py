"""What a weighting is: how much each member's label of a row counts for those who learn them all.

A student of several supervisors minimises sum_m w_m L(z, y_m) (Cui et al. 2024, "multi-weak"). A
weighting gives the w: of each row, before the training; or it starts somewhere and learns one
weight a member beside the student.

N rows, M members, C classes.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from w2s.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


class Weighting(Spec):
    """Weights of the members of an ensemble."""

    learned: ClassVar[bool] = False
    """Whether training moves the weights by `update`, the same ones for all rows."""

    kind: str
    """Name of the weighting: the name of its file."""

    def check_members(self, num_members: int) -> None:
        """Refuse a number of members that it has no weights for.

        Raises:
            UserError: it does not fit.
        """

    def check_epochs(self, epochs: int) -> None:
        """Refuse a training of a length in which it would do nothing.

        Raises:
            UserError: a learned weighting would not move in so many passes over the rows.
        """

    def weights(self, logprobs_NMC: NDArray[np.floating]) -> NDArray[np.float64]:
        """Weights [N, M], 0 or more, each row's sum 1; a learned one's start.

        Args:
            logprobs_NMC: natural log-probabilities of each member's label.
        """
        raise NotImplementedError

    def update(self, weights_M: "Tensor", gradient_M: "Tensor", epoch: int) -> "Tensor":
        """The weights after one optimizer step; only a learned one moves.

        Args:
            weights_M: before the step.
            gradient_M: of the update's loss: the mean loss of each member's labels, in nats.
            epoch: passes over the rows that are complete.

        Returns:
            [M], 0 or more, with a sum of 1.
        """
        raise NotImplementedError


def uniform(num_rows: int, num_members: int) -> NDArray[np.float64]:
    """The same weight for all: [N, M]."""
    return np.full((num_rows, num_members), 1 / num_members)
