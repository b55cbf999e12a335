"""The mean with fixed weights (Cui et al. 2024, section on fixed weights)."""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from w2s.combiners.base import Combiner, Floats, HeldOut
from w2s.errors import UserError


class Weighted(Combiner):
    """Mean of the members' class probabilities with a given weight each."""

    kind: Literal["weighted"] = "weighted"
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=2)
    """Weight of each member, in their order: 0 or more, scaled to sum to 1."""

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any(self.weights):
            raise ValueError("give one member a weight above 0")
        return self

    def check_members(self, num_members: int) -> None:
        """One weight a member.

        Raises:
            UserError: there are more or fewer.
        """
        if len(self.weights) != num_members:
            raise UserError(
                f"combine.weights has {len(self.weights)} numbers for {num_members} members; give "
                "one for each"
            )

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """Weigh the members."""
        weights_M = np.array(self.weights)
        return np.tensordot(weights_M / weights_M.sum(), probabilities_MNC, axes=1)
