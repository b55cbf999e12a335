"""The mean with weights of each row (Cui et al. 2024, "dynamic"), as the weighting `dynamic`."""

from typing import Literal

from w2s.combiners.base import Combiner, Floats, HeldOut


class Dynamic(Combiner):
    """Mean weighed row by row by the members' confidence, the probability of their top class."""

    kind: Literal["dynamic"] = "dynamic"

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """Weigh each member's row by its largest probability."""
        weights_MN = probabilities_MNC.max(2) / probabilities_MNC.max(2).sum(0)
        return (weights_MN[:, :, None] * probabilities_MNC).sum(0)
