"""Weak labels as a noisy channel over the strong model's own prior (automated W2S researcher).

The strong base model is asked zero-shot: that is the prior of every row. How often the supervisor
is right depends on the row's features and is fitted by EM; Bayes' rule gives the student's labels.
"""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.posterior import EMPosterior as EMPosteriorStage
from w2s.stages.setup import Setup


class EMPosterior(Around):
    """The student learns the posterior of the truth, given the weak label and the row."""

    kind: Literal["em_posterior"] = "em_posterior"
    rounds: int = Field(default=2, ge=1)
    """Times that the channel is fitted and the posterior taken."""
    layer: int = Field(default=-1, ge=-1)
    """Layer of the strong model whose hidden state the channel depends on; -1: the last."""

    def labels(self, setup: Setup) -> Stage:
        """The posterior."""
        features = setup.features(setup.strong, setup.student_train)
        return EMPosteriorStage(
            labels=self.of.labels(setup),
            prior=setup.zero_shot(setup.strong),
            features=features.model_copy(update={"layer": self.layer}),
            rounds=self.rounds,
            seed=setup.seed,
        )
