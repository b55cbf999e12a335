"""Control: labels are exchanged among the rows; the student must come out at chance."""

from typing import Literal

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.ensemble import ShuffledLabels as ShuffledLabelsStage
from w2s.stages.setup import Setup


class ShuffledLabels(Around):
    """The labels of the method within reach the student in random order."""

    kind: Literal["shuffled_labels"] = "shuffled_labels"

    def labels(self, setup: Setup) -> Stage:
        """The labels, permuted."""
        return ShuffledLabelsStage(labels=self.of.labels(setup), seed=setup.seed)
