"""Weights from held-out accuracy: the best vote of independent members (Nitzan and Paroush 1982).

Of members that err independently, each wrong class equally often, the majority is best weighed by
the log-odds of being right against one given wrong class, log(a (C - 1) / (1 - a)).
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from w2s.combiners.base import Combiner, Floats, HeldOut


def log_odds_of_accuracy(
    probabilities_MHC: Floats, labels_H: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Weight [M] of each member by its accuracy; 0 for one that is no better than chance.

    Half a row is added to those it has right and half a row to those it has wrong, so that no
    weight is infinite.
    """
    num_classes = probabilities_MHC.shape[2]
    right_M = (probabilities_MHC.argmax(2) == labels_H).sum(1)
    accuracy_M = (right_M + 0.5) / (len(labels_H) + 1)
    return np.maximum(0.0, np.log(accuracy_M * (num_classes - 1) / (1 - accuracy_M)))


class AccuracyWeighted(Combiner):
    """Mean weighed by how right each member is on held-out rows; those at chance count nothing.

    If all are at chance, all count the same.
    """

    is_fitted: ClassVar[bool] = True

    kind: Literal["accuracy_weighted"] = "accuracy_weighted"

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """Weigh the members by the log-odds of their accuracy."""
        assert held_out is not None
        weights_M = log_odds_of_accuracy(held_out.probabilities_MHC, held_out.labels_H)
        if not weights_M.any():
            return probabilities_MNC.mean(0)
        return np.tensordot(weights_M / weights_M.sum(), probabilities_MNC, axes=1)
