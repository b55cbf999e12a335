"""Weak labels of which some are replaced by the truth: what a budget of ground truth would buy.

N rows, C classes.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.errors import UserError
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth
from w2s.stages.labels import read_labels, true_labels


class MixedLabels(Stage):
    """Predictions of `labels`, with the truth in place of them on a budget of random rows."""

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    truth: GroundTruth
    """Ground truth of `strong_train`."""
    share: float | None = Field(default=None, ge=0, le=1)
    """Share of the rows whose truth is given; None: `num_rows` says it."""
    num_rows: int | None = Field(default=None, ge=0)
    """Number of rows whose truth is given; None: `share` says it."""
    weight: float = Field(default=1.0, gt=0)
    """Sample weight of a row with its truth; that of a weak label is 1."""
    seed: int = Field(ge=0)
    """Which rows. A larger budget at the same seed holds the rows of a smaller one."""

    @property
    def name(self) -> str:
        """Readable name."""
        budget = f"{self.share:g}" if self.share is not None else str(self.num_rows)
        return f"mixed-{budget}-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write the mixed labels.

        Raises:
            UserError: the budget is larger than the training set.
        """
        labels = read_labels(context.path(self.labels))
        row_ids = labels.row_ids
        truth_N = true_labels(context.path(self.truth), row_ids)
        num_rows = round(self.share * len(row_ids)) if self.share is not None else self.num_rows
        assert num_rows is not None
        if num_rows > len(row_ids):
            raise UserError(
                f"a budget of {num_rows} true labels, but strong_train has {len(row_ids)} rows; "
                "lower `num_rows`"
            )
        given_N = budgeted(len(row_ids), num_rows, self.seed)
        probabilities_NC = labels.probabilities_NC
        probabilities_NC[given_N] = np.eye(probabilities_NC.shape[1])[truth_N[given_N]]
        weights_N = np.where(given_N, self.weight, labels.train_weights_N)
        labels.write(context.output_dir, probabilities_NC=probabilities_NC, weights_N=weights_N)


def budgeted(num_rows: int, budget: int, seed: int) -> NDArray[np.bool_]:
    """[num_rows] with `budget` of them True: the head of one random order."""
    chosen = np.zeros(num_rows, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(num_rows)[:budget]] = True
    return chosen
