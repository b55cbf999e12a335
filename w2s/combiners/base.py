"""What a combiner is: several members' class probabilities in, one row of them out.

A combiner knows no files and no row ids: the `Ensemble` stage joins its members by row. One that is
fitted (`is_fitted`) is also given what the members say about rows that none of them learnt, with
the truth of these: a held-out part of `weak_train`.

M members, N rows, H held-out rows, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from w2s.spec import Spec

Floats = NDArray[np.float64]
SMALLEST_PROBABILITY = 1e-12
"""Probabilities below count as this where their logarithm is taken."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows that no member learnt."""

    probabilities_MHC: Floats
    """What each member says about them."""
    labels_H: NDArray[np.int64]
    """Their truth."""


class Combiner(Spec):
    """A rule that combines class probabilities."""

    is_fitted: ClassVar[bool] = False
    """Whether it needs held-out rows with their truth."""

    kind: str
    """Name of the combiner: the name of its file."""

    def check_members(self, num_members: int) -> None:
        """Refuse a number of members that the fields do not fit; any number fits unless it says.

        Raises:
            UserError: the fields are for another number of members.
        """

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """Class probabilities [N, C] from those of the members.

        Args:
            probabilities_MNC: each member's row sums to 1.
            held_out: rows to be fitted on; given to a combiner that `is_fitted`, ignored by others.

        Returns:
            Rows sum to 1.
        """
        raise NotImplementedError


def logs(probabilities: Floats) -> Floats:
    """Natural logarithms, with a floor in place of log 0."""
    return np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis."""
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)
