"""Unaided supervisors that differ in their seed: the ensemble's control (Lang et al. 2025)."""

from typing import Literal

from pydantic import Field

from w2s.methods._combined import MAX_MEMBERS, Combined, member_seeds
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class FinetuneEnsemble(Combined):
    """Several unaided supervisors that differ in their finetuning seed, combined."""

    kind: Literal["finetune_ensemble"] = "finetune_ensemble"
    num_members: int = Field(default=4, ge=2, le=MAX_MEMBERS)
    """Supervisors."""

    def each(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors."""
        seeds = member_seeds(setup.seed, self.num_members)
        return tuple(setup.at_seed(seed).supervisor() for seed in seeds)
