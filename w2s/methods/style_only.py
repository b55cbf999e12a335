"""Control: a supervisor that sees only the style of the debate, never what it says."""

from typing import Literal

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.stages.style import StyleClassifier


class StyleOnly(Method):
    """A linear classifier over masked transcripts; above chance, style tells the answer."""

    kind: Literal["style_only"] = "style_only"
    features: Literal["words", "positions", "equalities"] = "equalities"
    """What the classifier sees: masked words, masked words by position, or also which words are
    equal."""
    debater: str = "strong"
    """Whose debates are read: those of `strong`, `weak`, a rung of the ladder or a speaker."""

    def supervision(self, setup: Setup) -> Stage:
        """The style classifier, learnt on `weak_train` like any supervisor."""
        return StyleClassifier(
            transcripts=setup.debate(setup.named(self.debater)),
            task=setup.task,
            labels=setup.truth("weak_train"),
            features=self.features,
        )
