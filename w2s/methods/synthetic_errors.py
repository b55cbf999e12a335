"""Weak labels made of truth and errors of a chosen kind (Burns et al. 2023, appendix E)."""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.errors import Errors
from w2s.stages.errors import SyntheticErrors as SyntheticErrorsStage
from w2s.stages.setup import Setup
from w2s.types import Split


class SyntheticErrors(Around):
    """The labels are the truth, but for as many errors as the weak supervisor makes.

    What is hard or easy for the strong model is how sure of the truth of a row is the strong model
    trained on the truth of `weak_train`: it never saw the row, as a ceiling would have.
    """

    kind: Literal["synthetic_errors"] = "synthetic_errors"
    errors: Errors = "random"
    """Where the errors lie: anywhere, on the longest or shortest prompts, on the rows that are
    hardest or easiest for the strong model."""
    rate: float | None = Field(default=None, ge=0, le=1)
    """Share of wrong labels; None: the weak supervisor's."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Also `strong_train`: the labels are made of it."""
        return frozenset({*self.of.truth_in_labels, "strong_train"})

    def labels(self, setup: Setup) -> Stage:
        """Truth with errors."""
        by_difficulty = self.errors in ("hardest", "easiest")
        return SyntheticErrorsStage(
            labels=self.of.labels(setup),
            truth=setup.truth("strong_train"),
            prompts=setup.prompts,
            reference=setup.supervisor(model=setup.strong) if by_difficulty else None,
            errors=self.errors,
            rate=self.rate,
            seed=setup.seed,
        )
