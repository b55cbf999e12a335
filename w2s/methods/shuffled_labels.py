"""Control: labels are exchanged among the rows; the student must come out at chance."""

from typing import Literal

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.ensemble import ShuffledLabels as ShuffledLabelsStage
from w2s.stages.setup import Setup


class ShuffledLabels(Method):
    """The unaided supervisor, whose labels reach the student in random order."""

    kind: Literal["shuffled_labels"] = "shuffled_labels"

    def supervision(self, setup: Setup) -> Stage:
        """The unaided weak supervisor."""
        return setup.supervisor()

    def labels(self, setup: Setup) -> Stage:
        """Its labels, permuted."""
        return ShuffledLabelsStage(labels=setup.supervisor(), seed=setup.seed)
