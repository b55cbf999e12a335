"""Weights that are given (Cui et al. 2024: .25, .25, .5 for their three weak models)."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from w2s.errors import UserError
from w2s.weightings.base import Weighting

Weight = Annotated[float, Field(ge=0)]


class Fixed(Weighting):
    """Weights that are given, in the order of the members."""

    kind: Literal["fixed"] = "fixed"
    """Name of the weighting."""
    values: tuple[Weight, ...]
    """One weight a member, 0 or more; scaled to a sum of 1."""

    @field_validator("values")
    @classmethod
    def _not_all_nought(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(values) > 0:
            raise ValueError("weights of members: one of them must be above 0")
        return values

    def check_members(self, num_members: int) -> None:
        """Refuse an ensemble of another number of members."""
        if len(self.values) != num_members:
            raise UserError(
                f"fixed weights: {len(self.values)} values for {num_members} members; give one "
                "value a member, in their order"
            )

    def weights(self, logprobs_NMC: NDArray[np.floating]) -> NDArray[np.float64]:
        """The given weights for every row."""
        values_M = np.array(self.values) / sum(self.values)
        return np.tile(values_M, (len(logprobs_NMC), 1))
