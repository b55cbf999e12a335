"""A weak supervisor that reads a debate of two models (Lang et al. 2025), and its controls."""

from typing import Literal

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.stages.transcripts import PermutedTranscripts, ShuffledTranscripts


class Debate(Method):
    """A debate a row, in the supervisor's input in finetuning and labelling; students see none."""

    kind: Literal["debate"] = "debate"
    debater: Literal["strong", "weak"] = "strong"
    """Who argues: the strong base model, or the weak one (self-debate, a control)."""
    transcripts: Literal["own", "shuffled", "permuted"] = "own"
    """Which debate a row gets: its own, another row's (control), or its own with the values
    exchanged (control)."""

    def supervision(self, setup: Setup) -> Stage:
        """The weak supervisor with transcripts."""
        transcripts: Stage = setup.debate(setup.strong if self.debater == "strong" else setup.weak)
        if self.transcripts == "shuffled":
            transcripts = ShuffledTranscripts(transcripts=transcripts, seed=setup.seed)
        elif self.transcripts == "permuted":
            transcripts = PermutedTranscripts(
                transcripts=transcripts, task=setup.task, seed=setup.seed
            )
        return setup.supervisor(transcripts)
