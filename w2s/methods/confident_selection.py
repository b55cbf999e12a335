"""Only confident weak labels are learnt (Burns et al. 2023, appendix B; AAR 2026)."""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.selection import ConfidentSelection as ConfidentSelectionStage
from w2s.stages.setup import Setup


class ConfidentSelection(Around):
    """Rows whose weak label is unsure are left out of the student's training."""

    kind: Literal["confident_selection"] = "confident_selection"
    by: Literal["threshold", "top_share"] = "top_share"
    """Keep labels above a confidence, or the most confident of each class."""
    threshold: float = Field(default=0.75, ge=0, le=1)
    """Lowest probability of the top class, for `by = "threshold"`."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows of each class, for `by = "top_share"`."""

    def labels(self, setup: Setup) -> Stage:
        """The labels of the method within, the unsure ones with weight 0."""
        return ConfidentSelectionStage(
            labels=self.of.labels(setup), by=self.by, threshold=self.threshold, share=self.share
        )
