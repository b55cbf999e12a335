"""The student learns equally many rows of each predicted class (Sang et al. 2024).

In the paper 2,500 of each are drawn from the labels of human-AI interaction.
"""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.balance import BalancedLabels
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class BalancedClasses(Around):
    """Equally many random rows of each predicted class; the others are left out."""

    kind: Literal["balanced_classes"] = "balanced_classes"
    num_rows: int | None = Field(default=None, ge=1)
    """Rows of each class; None: as many as the smallest one has."""

    def labels(self, setup: Setup) -> Stage:
        """The labels of the method within, those left out with weight 0."""
        return BalancedLabels(labels=self.of.labels(setup), num_rows=self.num_rows, seed=setup.seed)
