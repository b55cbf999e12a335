"""Several weak supervisors, each with its own sample of the debate, averaged (Lang et al. 2025)."""

from typing import Literal

from pydantic import Field

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.ensemble import Ensemble
from w2s.stages.setup import Setup


class DebateEnsemble(Method):
    """Members differ in debate seed and finetuning seed.

    At experiment seed s the members have the seeds s * num_members ... s * num_members +
    num_members - 1: no two experiment seeds share a member, so replicates are independent.
    """

    kind: Literal["debate_ensemble"] = "debate_ensemble"
    num_members: int = Field(default=4, ge=2, le=64)
    """Debates a row, and supervisors."""
    debater: Literal["strong", "weak"] = "strong"
    """Who argues."""

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors, each with its own debate."""
        first = setup.seed * self.num_members
        members = []
        for seed in range(first, first + self.num_members):
            member = setup.at_seed(seed)
            debater = member.strong if self.debater == "strong" else member.weak
            members.append(member.supervisor(member.debate(debater)))
        return tuple(members)

    def supervision(self, setup: Setup) -> Stage:
        """Mean of the members' probabilities."""
        return Ensemble(members=self.members(setup))
