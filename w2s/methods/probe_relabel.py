"""A probe on the strong model's features checks the weak labels (EleutherAI 2024)."""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.relabel import ProbeRelabel as ProbeRelabelStage
from w2s.stages.setup import Setup


class ProbeRelabel(Around):
    """Labels that a probe of the strong base model disagrees with are dropped, or all replaced.

    The probe learns the weak labels of the other rows.
    """

    kind: Literal["probe_relabel"] = "probe_relabel"
    probe: Literal["knn", "logistic", "topological"] = "knn"
    """Mean label of the nearest neighbours; logistic regression; or logistic regression on the rows
    in the largest connected part of their class's neighbour graph (Wu et al. 2020, TopoFilter)."""
    action: Literal["filter", "relabel"] = "filter"
    """Drop the labels that the probe disagrees with most, or replace all by the probe's."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the rows dropped, for `action = "filter"`."""
    num_neighbors: int = Field(default=50, ge=1)
    """Neighbours of a row, for `probe = "knn"`."""
    num_graph_neighbors: int = Field(default=4, ge=1)
    """Neighbours that a row has an edge to, for `probe = "topological"`."""
    layer: int = Field(default=-1, ge=-1)
    """Layer of the strong model whose hidden state is read; -1: the last. A middle one often
    separates classes better."""

    def labels(self, setup: Setup) -> Stage:
        """The labels of the method within, filtered or replaced."""
        features = setup.features(setup.strong, setup.student_train)
        return ProbeRelabelStage(
            labels=self.of.labels(setup),
            features=features.model_copy(update={"layer": self.layer}),
            probe=self.probe,
            action=self.action,
            share=self.share,
            num_neighbors=self.num_neighbors,
            num_graph_neighbors=self.num_graph_neighbors,
            seed=setup.seed,
        )
