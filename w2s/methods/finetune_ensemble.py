"""Unaided supervisors that differ in their seed: the ensemble's control (Lang et al. 2025)."""

from typing import Literal

from pydantic import Field

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.ensemble import Ensemble
from w2s.stages.setup import Setup


class FinetuneEnsemble(Method):
    """Mean of the probabilities of `num_members` supervisors; seeds as in `debate_ensemble`."""

    kind: Literal["finetune_ensemble"] = "finetune_ensemble"
    num_members: int = Field(default=4, ge=2, le=64)
    """Supervisors."""

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors."""
        first = setup.seed * self.num_members
        return tuple(
            setup.at_seed(seed).supervisor() for seed in range(first, first + self.num_members)
        )

    def supervision(self, setup: Setup) -> Stage:
        """Mean of the members' probabilities."""
        return Ensemble(members=self.members(setup))
