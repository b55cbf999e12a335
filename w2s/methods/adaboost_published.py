"""AdaBoost as the code of Sang et al. (2024) has it; `adaboost` is the textbook's."""

from typing import Literal

from w2s.methods._boosted import AdaBoosted
from w2s.stages.boosting import Form
from w2s.stages.data import GroundTruth
from w2s.stages.setup import Setup
from w2s.types import Split


class AdaBoostPublished(AdaBoosted):
    """AdaBoost with the error on `val`, unweighted, and weights that are not scaled.

    The trainer scales weights to a mean of 1 in any case; what is left of the difference is how
    they grow from round to round.
    """

    kind: Literal["adaboost_published"] = "adaboost_published"

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Also `val`: errors of the rounds are measured there."""
        return super().truth_in_labels | frozenset[Split]({"val"})

    @property
    def _form(self) -> Form:
        return "published"

    def _held_out(self, setup: Setup) -> GroundTruth:
        return setup.truth("val")
