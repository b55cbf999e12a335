"""The mean of probabilities (Lang et al. 2025; Sang et al. 2024, bagging)."""

from typing import Literal

from w2s.combiners.base import Combiner, Floats, HeldOut


class Mean(Combiner):
    """Mean of the members' class probabilities."""

    kind: Literal["mean"] = "mean"

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """All members count the same."""
        return probabilities_MNC.mean(0)
