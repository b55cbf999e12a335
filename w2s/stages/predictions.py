"""Predictions: what every trained model leaves, and how labels are read from it.

One file, `predictions.parquet`: split, row_id, logprob_0 ... logprob_{C-1} (natural logarithms)
and, where labels were selected or weighed, `weight` (0 drops a row from training). Labels are
joined by row id, never by position.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from w2s.stages.data import LABELS_FILE
from w2s.types import Split

PREDICTIONS_FILE = "predictions.parquet"


class Targets(NamedTuple):
    """What a classifier learns from."""

    probabilities_NC: NDArray[np.float32]
    """Class probabilities; rows sum to 1."""
    weights_N: NDArray[np.float32]
    """Sample weights, 0 or more; 0 leaves the row out."""


def write_predictions(
    folder: Path,
    splits: "list[str]",
    row_ids: "list[str]",
    logprobs_NC: NDArray[np.floating],
    weights_N: NDArray[np.floating] | None = None,
) -> None:
    """Write class log-probabilities for rows of any splits.

    Args:
        folder: artifact folder.
        splits: N names, one per row.
        row_ids: N ids.
        logprobs_NC: [N, C] natural log-probabilities.
        weights_N: sample weights for those who learn from these labels; None: all the same.
    """
    columns: dict[str, Any] = {"split": splits, "row_id": row_ids}
    for index in range(logprobs_NC.shape[1]):
        columns[f"logprob_{index}"] = logprobs_NC[:, index].astype(np.float32)
    if weights_N is not None:
        columns["weight"] = weights_N.astype(np.float32)
    pd.DataFrame(columns).to_parquet(folder / PREDICTIONS_FILE, index=False)


def read_predictions(folder: Path) -> pd.DataFrame:
    """A predictions artifact as written."""
    return pd.read_parquet(folder / PREDICTIONS_FILE)


def logprob_columns(frame: pd.DataFrame) -> list[str]:
    """The log-probability columns in class order."""
    return sorted((c for c in frame.columns if c.startswith("logprob_")), key=lambda c: int(c[8:]))


def read_targets(folder: Path, split: Split, row_ids: "list[str]", num_classes: int) -> Targets:
    """What to learn from, in the order of `row_ids`.

    The folder holds either ground truth (one-hot) or another model's predictions (its
    probabilities).

    Raises:
        ValueError: the folder has no label for one of the rows.
    """
    if (folder / LABELS_FILE).exists():
        frame = pd.read_parquet(folder / LABELS_FILE)
        values_NC = np.eye(num_classes, dtype=np.float32)[frame["label"].to_numpy()]
    else:
        frame = read_predictions(folder)
        values_NC = np.exp(frame[logprob_columns(frame)].to_numpy(np.float64))
        values_NC = (values_NC / values_NC.sum(1, keepdims=True)).astype(np.float32)
    own = (frame["split"] == split).to_numpy()
    position = {
        row_id: index
        for index, row_id in zip(np.flatnonzero(own), frame["row_id"][own], strict=True)
    }
    missing = [row_id for row_id in row_ids if row_id not in position]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(row_ids)} rows of {split} have no label in {folder.name}; "
            f"first: {missing[0]}"
        )
    chosen = [position[row_id] for row_id in row_ids]
    weights_N = (
        frame["weight"].to_numpy(np.float32)
        if "weight" in frame.columns
        else np.ones(len(frame), dtype=np.float32)
    )
    return Targets(values_NC[chosen], weights_N[chosen])
