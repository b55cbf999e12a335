"""Supervision on easy rows only, tested on all of them (Burns et al. 2023, appendix C.2).

A row's difficulty is the smallest rung of the ladder from which on every model is right about it
when held out. The report shows scores by difficulty.
"""

from typing import Literal

from pydantic import Field

from w2s.errors import UserError
from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.data import GroundTruth
from w2s.stages.difficulty import Difficulty, EasyLabels
from w2s.stages.mixing import MixedLabels
from w2s.stages.setup import Setup
from w2s.types import Split


class EasyToHard(Around):
    """The student learns rows up to a difficulty; their choice depends on the truth of all rows.

    Every `max_difficulty` learns the same number of rows. The ceiling learns all of them.
    """

    kind: Literal["easy_to_hard"] = "easy_to_hard"
    max_difficulty: int = Field(default=0, ge=0)
    """Hardest row learnt: 0 for those that every rung gets right, k where the rungs from the k-th
    on do, K of K rungs for all rows."""
    learns: Literal["weak", "truth"] = "truth"
    """Labels of the easy rows: the truth, as in the paper, or those of the method within."""
    num_rows: int | None = Field(default=None, ge=1)
    """Rows learnt; None: as many as there are of difficulty 0."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Also `strong_train`: it says which rows are easy."""
        return frozenset({*self.of.truth_in_labels, "strong_train"})

    def labels(self, setup: Setup) -> Stage:
        """Labels of the easy rows.

        Raises:
            UserError: `max_difficulty` is beyond the ladder.
        """
        if self.max_difficulty > len(setup.ladder):
            raise UserError(
                f"easy_to_hard: max_difficulty = {self.max_difficulty}, but the ladder has "
                f"{len(setup.ladder)} rungs; allowed: 0 to {len(setup.ladder)}"
            )
        labels = self.of.labels(setup)
        truth = setup.truth("strong_train")
        if self.learns == "truth":
            labels = MixedLabels(labels=labels, truth=truth, share=1.0, seed=setup.seed)
        return EasyLabels(
            labels=labels,
            difficulty=self._rated(setup, truth),
            max_difficulty=self.max_difficulty,
            num_rows=self.num_rows,
            seed=setup.seed,
        )

    def _rated(self, setup: Setup, *truths: GroundTruth) -> Difficulty:
        if len(setup.ladder) < 2:
            raise UserError(
                "easy_to_hard rates rows by the models of the ladder; it has 1 rung, and needs 2 "
                "or more"
            )
        return Difficulty(
            predictions=tuple(setup.supervisor(model=model) for model in setup.ladder.values()),
            truths=truths,
        )
