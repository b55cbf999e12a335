"""Several weak supervisors, each with its own sample of the debate (Lang et al. 2025)."""

from typing import Literal

from pydantic import Field

from w2s.methods._combined import MAX_MEMBERS, Combined, member_seeds
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class DebateEnsemble(Combined):
    """Several supervisors, each with a debate seed and a finetuning seed of its own, combined."""

    kind: Literal["debate_ensemble"] = "debate_ensemble"
    num_members: int = Field(default=4, ge=2, le=MAX_MEMBERS)
    """Debates a row, and supervisors."""
    debater: str = "strong"
    """Who argues: `strong`, `weak`, a rung of the ladder or a speaker of the sweep."""

    def each(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors, each with its own debate."""
        seeds = member_seeds(setup.seed, self.num_members)
        transcripts = self.contexts(setup)
        return tuple(
            setup.at_seed(seed).supervisor(debate)
            for seed, debate in zip(seeds, transcripts, strict=True)
        )

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """The debates, one a supervisor."""
        debater = setup.named(self.debater)
        seeds = member_seeds(setup.seed, self.num_members)
        return tuple(setup.at_seed(seed).debate(debater) for seed in seeds)
