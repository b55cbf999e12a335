"""Several weak supervisors, each with its own sample of the debate (Lang et al. 2025)."""

from typing import Literal

from pydantic import Field

from w2s.methods._combined import MAX_MEMBERS, Combined, member_seeds
from w2s.methods._debating import Debating
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class DebateEnsemble(Combined, Debating):
    """Several supervisors that read debates, combined."""

    kind: Literal["debate_ensemble"] = "debate_ensemble"
    num_members: int = Field(default=4, ge=2, le=MAX_MEMBERS)
    """Supervisors."""
    differ_in: Literal["debates", "finetuning"] = "debates"
    """What members differ in: each has a debate and a finetuning seed of its own; or all read the
    debate of the first, and only the finetuning seeds differ (the paper's finetune ensemble)."""

    def each(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors, each with its own debate."""
        return tuple(here.supervisor(debate) for here, debate in self._debated(setup))

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """The debates, one a supervisor."""
        return tuple(debate for _, debate in self._debated(setup))

    def _debated(self, setup: Setup) -> list[tuple[Setup, Stage]]:
        """The members' setups and debates."""
        seeds = member_seeds(setup.seed, self.num_members)
        setups = [setup.at_seed(seed) for seed in seeds]
        if self.differ_in == "finetuning":
            shared = self.debates(setups[0])
            return [(here, debate) for here in setups for debate in shared]
        return [(here, debate) for here in setups for debate in self.debates(here)]
