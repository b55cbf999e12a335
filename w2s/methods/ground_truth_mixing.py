"""A budget of true labels among the weak ones: how much ground truth is weak supervision worth?"""

from typing import Literal, Self

from pydantic import Field, model_validator

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.mixing import MixedLabels
from w2s.stages.setup import Setup
from w2s.types import Split


class GroundTruthMixing(Around):
    """Random rows of `strong_train` have their truth in place of the weak label.

    With `share = 1` the student learns what the ceiling does.
    """

    kind: Literal["ground_truth_mixing"] = "ground_truth_mixing"
    share: float | None = Field(default=0.1, ge=0, le=1)
    """Share of the rows whose truth is given; None: `num_rows` says it."""
    num_rows: int | None = Field(default=None, ge=0)
    """Number of rows whose truth is given; it takes the place of `share`."""
    weight: float = Field(default=1.0, gt=0)
    """Sample weight of a row with its truth; that of a weak label is 1."""

    @model_validator(mode="after")
    def _has_a_budget(self) -> Self:
        if self.share is None and self.num_rows is None:
            raise ValueError("no budget of true labels; give `share` or `num_rows`")
        return self

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Also `strong_train`: that is the point."""
        return frozenset({*self.of.truth_in_labels, "strong_train"})

    def labels(self, setup: Setup) -> Stage:
        """The labels of the method within, mixed with truth."""
        return MixedLabels(
            labels=self.of.labels(setup),
            truth=setup.truth("strong_train"),
            share=self.share if self.num_rows is None else None,
            num_rows=self.num_rows,
            weight=self.weight,
            seed=setup.seed,
        )
