"""Labels on their way to a student: read, changed row by row, written as predictions again.

A stage that changes labels changes those of `strong_train`; the rows of `val` and `test` go through
as they came, so that checkpoints are still compared on the supervisor's labels. N rows, C classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from w2s.stages.data import read_truth
from w2s.stages.predictions import (
    Members,
    logprob_columns,
    read_members,
    read_predictions,
    write_predictions,
)

SMALLEST_PROBABILITY = 1e-12
"""Stands for 0 where logarithms are written."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The label artifact of a stage, and which of its rows are learnt from."""

    index: pd.DataFrame
    """split, row_id of all rows."""
    logprobs_NC: NDArray[np.float64]
    """Natural log-probabilities of all rows."""
    weights_N: NDArray[np.float64]
    """Sample weights of all rows; 1 where the artifact has none."""
    train: NDArray[np.int64]
    """Positions of the rows of `strong_train`."""
    members: Members | None = None
    """Labels of all rows by each member, of which these are the mean; None: there are no members.
    They go on with the rows unless their labels are replaced."""

    @property
    def row_ids(self) -> list[str]:
        """Ids of the rows of `strong_train`."""
        return self.index["row_id"].iloc[self.train].tolist()

    @property
    def probabilities_NC(self) -> NDArray[np.float64]:
        """Class probabilities of the rows of `strong_train`; rows sum to 1."""
        values_NC = np.exp(self.logprobs_NC[self.train])
        return values_NC / values_NC.sum(1, keepdims=True)

    @property
    def train_weights_N(self) -> NDArray[np.float64]:
        """Sample weights of the rows of `strong_train`."""
        return self.weights_N[self.train]

    def write(
        self,
        folder: Path,
        *,
        probabilities_NC: NDArray[np.floating] | None = None,
        weights_N: NDArray[np.floating] | None = None,
    ) -> None:
        """Write all rows, with other probabilities or weights for those of `strong_train`.

        Args:
            folder: artifact folder.
            probabilities_NC: of the rows of `strong_train`, in their order; None: as they came.
            weights_N: likewise.
        """
        logprobs_NC, all_weights_N = self.logprobs_NC.copy(), self.weights_N.copy()
        if probabilities_NC is not None:
            logprobs_NC[self.train] = np.log(np.maximum(probabilities_NC, SMALLEST_PROBABILITY))
        if weights_N is not None:
            all_weights_N[self.train] = weights_N
        write_predictions(
            folder,
            self.index["split"].tolist(),
            self.index["row_id"].tolist(),
            logprobs_NC,
            all_weights_N,
            self.members if probabilities_NC is None else None,
        )


def read_labels(folder: Path) -> Labels:
    """Read predictions as labels.

    Raises:
        ValueError: they do not cover `strong_train`.
    """
    frame = read_predictions(folder)
    train = np.flatnonzero(frame["split"] == "strong_train")
    if len(train) == 0:
        raise ValueError(f"{folder.name} has no labels of strong_train")
    weights_N = frame["weight"] if "weight" in frame.columns else np.ones(len(frame))
    return Labels(
        index=frame.loc[:, ["split", "row_id"]],
        logprobs_NC=frame[logprob_columns(frame)].to_numpy(np.float64),
        weights_N=np.asarray(weights_N, dtype=np.float64),
        train=train,
        members=read_members(folder, frame),
    )


def joined(frame: pd.DataFrame, row_ids: list[str], what: str) -> pd.DataFrame:
    """The rows of a frame in the order of some ids.

    Args:
        frame: has a column `row_id`.
        row_ids: ids wanted.
        what: name of the frame in the error.

    Raises:
        ValueError: an id is not in the frame, or there is one twice.
    """
    indexed: Any = frame.set_index("row_id")
    if not indexed.index.is_unique:
        first = indexed.index[indexed.index.duplicated()][0]
        raise ValueError(f"{what} has a row twice: {first}")
    missing = sorted(set(row_ids) - set(indexed.index))
    if missing:
        raise ValueError(f"{what} lacks {len(missing)} of {len(row_ids)} rows; first: {missing[0]}")
    return indexed.loc[row_ids].reset_index()


def true_labels(folder: Path, row_ids: list[str]) -> NDArray[np.int64]:
    """Ground truth [N] of some rows, joined by id."""
    return joined(read_truth(folder), row_ids, "ground truth")["label"].to_numpy(np.int64)


def probabilities_of(folder: Path, row_ids: list[str], split: str) -> NDArray[np.float64]:
    """Predicted class probabilities [N, C] of some rows of a split, joined by id."""
    frame = read_predictions(folder)
    found = joined(frame.loc[frame["split"] == split], row_ids, f"predictions of {split}")
    values_NC = np.exp(found[logprob_columns(found)].to_numpy(np.float64))
    return values_NC / values_NC.sum(1, keepdims=True)
