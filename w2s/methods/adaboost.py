"""AdaBoost as in the textbook (Freund and Schapire 1997; Zhu et al. 2009 for more classes)."""

from typing import Literal

from w2s.methods._boosted import AdaBoosted
from w2s.stages.boosting import Form


class AdaBoost(AdaBoosted):
    """AdaBoost: weighted training error, weights scaled, stops at chance; votes average softmaxes.

    After it has stopped later rounds are still trained, but have no vote. A supervisor that is
    right on all rows it learnt ends it at once: train for fewer epochs to leave it something.
    """

    kind: Literal["adaboost"] = "adaboost"

    @property
    def _form(self) -> Form:
        return "textbook"
