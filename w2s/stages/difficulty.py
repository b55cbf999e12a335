"""How hard a row is: the smallest model of the ladder from which on all are right about it.

Burns et al. 2023, appendix C.2. `difficulty.parquet` has split, row_id, difficulty: 0 where the
smallest rung and all larger ones are right, K where the largest of K rungs is wrong. N rows.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.errors import UserError
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth, read_truth
from w2s.stages.labels import joined, probabilities_of, read_labels

DIFFICULTY_FILE = "difficulty.parquet"


class Difficulty(Stage):
    """Joins the predictions of models that were held out from a row with its truth."""

    predictions: tuple[SerializeAsAny[Stage], ...] = Field(min_length=2)
    """A model of each rung trained on truth of `weak_train`, smallest first."""
    truths: tuple[GroundTruth, ...] = Field(min_length=1)
    """Ground truth of the splits whose rows are rated."""

    @property
    def name(self) -> str:
        """Readable name."""
        return "difficulty-" + "-".join(truth.split for truth in self.truths)

    def run(self, context: StageContext) -> None:
        """Write `difficulty.parquet`."""
        frames = []
        for truth in self.truths:
            frame = read_truth(context.path(truth))
            row_ids, labels_N = frame["row_id"].tolist(), frame["label"].to_numpy()
            right_KN = np.stack(
                [
                    probabilities_of(context.path(stage), row_ids, truth.split).argmax(1)
                    == labels_N
                    for stage in self.predictions
                ]
            )
            frames.append(frame[["split", "row_id"]].assign(difficulty=difficulties(right_KN)))
        pd.concat(frames).to_parquet(context.output_dir / DIFFICULTY_FILE, index=False)


class EasyLabels(Stage):
    """Labels of the rows that are easy enough, of which a fixed number is learnt.

    The number does not depend on `max_difficulty`, so that students differ in what they learn, not
    in how much.
    """

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    difficulty: Difficulty
    """Ratings of the rows of `strong_train`."""
    max_difficulty: int = Field(ge=0)
    """Hardest row that is learnt."""
    num_rows: int | None = Field(default=None, ge=1)
    """Rows to learn; None: as many as there are of difficulty 0."""
    seed: int = Field(ge=0)
    """Which of the easy rows."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"easy-{self.max_difficulty}-{self.labels.name}"

    def run(self, context: StageContext) -> None:
        """Write the labels with a weight of 0 where they are not learnt.

        Raises:
            UserError: too few rows are that easy.
        """
        labels = read_labels(context.path(self.labels))
        rated = read_difficulty(context.path(self.difficulty))
        difficulty_N = joined(
            rated.loc[rated["split"] == "strong_train"], labels.row_ids, "difficulty"
        )["difficulty"].to_numpy()
        easy = np.flatnonzero((difficulty_N <= self.max_difficulty) & (labels.train_weights_N > 0))
        num_rows = self.num_rows or int((difficulty_N == 0).sum())
        if not 0 < num_rows <= len(easy):
            raise UserError(
                f"easy_to_hard: {num_rows} rows are to be learnt, and {len(easy)} of "
                f"{len(difficulty_N)} have a difficulty of at most {self.max_difficulty}; "
                "lower `num_rows` or raise `max_difficulty`"
            )
        chosen = np.random.default_rng(self.seed).permutation(easy)[:num_rows]
        kept_N = np.zeros(len(difficulty_N))
        kept_N[chosen] = 1.0
        labels.write(context.output_dir, weights_N=labels.train_weights_N * kept_N)


def difficulties(right_KN: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N] index of the first of the K models, smallest first, from which all are right; K: none."""
    right_to_the_end_KN = np.logical_and.accumulate(right_KN[::-1], axis=0)
    return len(right_KN) - right_to_the_end_KN.sum(0)


def read_difficulty(folder: Path) -> pd.DataFrame:
    """A difficulty artifact: split, row_id, difficulty."""
    return pd.read_parquet(folder / DIFFICULTY_FILE)
