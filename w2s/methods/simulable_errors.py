"""A supervisor whose errors the strong model can simulate (Burns et al. 2023, appendix E).

Its labels are those of a logistic regression on the first features of the strong base model: the
fewer it sees, the weaker it is, and a student with the same features can always imitate it.
"""

from typing import Literal

from pydantic import Field

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.stages.simulable import SimulableSupervisor


class SimulableErrors(Method):
    """The supervisor, and the floor, is a probe on part of the strong model's features."""

    kind: Literal["simulable_errors"] = "simulable_errors"
    num_features: int = Field(default=10, ge=1)
    """Features it sees; the paper has 10, 30, 100, 300 and 1000."""
    label_noise: float = Field(default=0.0, ge=0, lt=1)
    """Share of its labels that are then made wrong; the paper has 0.01 to 0.1."""
    layer: int = Field(default=-1, ge=-1)
    """Layer of the strong model whose hidden state is read; -1: the last."""

    def supervision(self, setup: Setup) -> Stage:
        """The probe, learnt on truth of `weak_train`."""
        features = setup.features(setup.strong, setup.student_train)
        return SimulableSupervisor(
            features=features.model_copy(update={"layer": self.layer}),
            labels=setup.truth("weak_train"),
            num_features=self.num_features,
            label_noise=self.label_noise,
            seed=setup.seed,
        )

    def floor(self, setup: Setup) -> Stage:
        """The probe on its own."""
        return self.supervision(setup)
