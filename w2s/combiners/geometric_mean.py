"""The geometric mean: a logarithmic opinion pool (Genest and Zidek 1986, section 3)."""

from typing import Literal

from w2s.combiners.base import Combiner, Floats, HeldOut, logs, softmax


class GeometricMean(Combiner):
    """Geometric mean of the members' class probabilities, scaled to sum to 1.

    A member that is sure of a class weighs more than in the arithmetic mean.
    """

    kind: Literal["geometric_mean"] = "geometric_mean"

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """All members count the same."""
        return softmax(logs(probabilities_MNC).mean(0))
