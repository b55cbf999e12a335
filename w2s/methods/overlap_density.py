"""Selection of the rows on which weak and strong overlap (automated W2S researcher 2026)."""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.relabel import OverlapDensity as OverlapDensityStage
from w2s.stages.setup import Setup


class OverlapDensity(Around):
    """Half of the rows of each class are learnt.

    They are those whose weak label fits the strong model's features, in dense places, and which
    the supervisor finds neither trivial nor a guess.
    """

    kind: Literal["overlap_density"] = "overlap_density"
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows of each class that is kept."""
    num_neighbors: int = Field(default=50, ge=1)
    """Neighbours of a row."""
    layer: int = Field(default=-1, ge=-1)
    """Layer of the strong model whose hidden state is read; -1: the last."""

    def labels(self, setup: Setup) -> Stage:
        """The labels of the method within, the other rows with weight 0."""
        features = setup.features(setup.strong, setup.student_train)
        return OverlapDensityStage(
            labels=self.of.labels(setup),
            features=features.model_copy(update={"layer": self.layer}),
            share=self.share,
            num_neighbors=self.num_neighbors,
            seed=setup.seed,
        )
