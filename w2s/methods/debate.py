"""A weak supervisor that reads a debate of two models (Lang et al. 2025), and its controls."""

from typing import Literal

from w2s.methods._debating import Debating, averaged
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.stages.transcripts import PermutedTranscripts, ShuffledTranscripts


class Debate(Debating):
    """A debate a row, in the supervisor's input in finetuning and labelling; students see none."""

    kind: Literal["debate"] = "debate"
    transcripts: Literal["own", "shuffled", "permuted"] = "own"
    """Which debate a row gets: its own, another row's (control), or its own with the values
    exchanged (control)."""

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """The debates, or what a control makes of them."""
        debates = self.debates(setup)
        if self.transcripts == "shuffled":
            return tuple(ShuffledTranscripts(transcripts=one, seed=setup.seed) for one in debates)
        if self.transcripts == "permuted":
            return tuple(
                PermutedTranscripts(transcripts=one, task=setup.task, seed=setup.seed)
                for one in debates
            )
        return debates

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors of both orders; none where there is one."""
        supervisors = self._supervisors(setup)
        return supervisors if len(supervisors) > 1 else ()

    def supervision(self, setup: Setup) -> Stage:
        """The weak supervisor with transcripts."""
        return averaged(self._supervisors(setup))

    def _supervisors(self, setup: Setup) -> tuple[Stage, ...]:
        return tuple(setup.supervisor(one) for one in self.contexts(setup))
