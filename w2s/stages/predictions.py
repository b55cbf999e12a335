"""Predictions: what every trained model leaves, and how labels are read from it.

One file, `predictions.parquet`: split, row_id, logprob_0 ... logprob_{C-1} (natural logarithms)
and, where labels were selected or weighed, `weight` (0 drops a row from training). Labels are
joined by row id, never by position.

Labels of several members for one student have, beside their mean in these columns, each member's:
member_{m}_logprob_{c} and member_{m}_weight, and `members.json`, the weighting. Who knows nothing
of members reads the mean.

N rows, M members, C classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from w2s.spec import parse
from w2s.stages.data import LABELS_FILE
from w2s.types import Split
from w2s.weightings.base import Weighting

PREDICTIONS_FILE = "predictions.parquet"
MEMBERS_FILE = "members.json"


@dataclass(frozen=True, slots=True)
class Members:
    """The labels of several members, each learnt by the student with a weight."""

    logprobs_NMC: NDArray[np.floating]
    """Natural log-probabilities of each member."""
    weights_NM: NDArray[np.floating]
    """Weights of the members in each row; their sum is 1."""
    weighting: Weighting
    """Where the weights are from, or how they are learnt."""

    @property
    def probabilities_NMC(self) -> NDArray[np.float64]:
        """Class probabilities of each member; their sum over classes is 1."""
        values_NMC = np.exp(self.logprobs_NMC.astype(np.float64))
        return values_NMC / values_NMC.sum(2, keepdims=True)

    def take(self, rows: Any) -> "Members":
        """Some of the rows: positions, or a mask."""
        return Members(self.logprobs_NMC[rows], self.weights_NM[rows], self.weighting)


class Targets(NamedTuple):
    """What a classifier learns from."""

    probabilities_NC: NDArray[np.float32]
    """Class probabilities; rows sum to 1."""
    weights_N: NDArray[np.float32]
    """Sample weights, 0 or more; 0 leaves the row out."""
    members: Members | None = None
    """Labels that are learnt in place of `probabilities_NC`, their mean; None: one label a row."""
    offsets_NC: NDArray[np.float32] | None = None
    """Logits that are added to the model's own while it learns (what others have said already);
    None: none."""

    @property
    def learned_NC(self) -> NDArray[np.floating]:
        """What a training takes: probabilities [N, C], or those of the members [N, M, C]."""
        return self.probabilities_NC if self.members is None else self.members.probabilities_NMC

    def take(self, rows: Any) -> "Targets":
        """Some of the rows: positions, or a mask."""
        members = None if self.members is None else self.members.take(rows)
        offsets_NC = None if self.offsets_NC is None else self.offsets_NC[rows]
        return Targets(self.probabilities_NC[rows], self.weights_N[rows], members, offsets_NC)


def write_predictions(
    folder: Path,
    splits: "list[str]",
    row_ids: "list[str]",
    logprobs_NC: NDArray[np.floating],
    weights_N: NDArray[np.floating] | None = None,
    members: Members | None = None,
) -> None:
    """Write class log-probabilities for rows of any splits.

    Args:
        folder: artifact folder.
        splits: N names, one per row.
        row_ids: N ids.
        logprobs_NC: [N, C] natural log-probabilities.
        weights_N: sample weights for those who learn from these labels; None: all the same.
        members: labels of the members that the student learns in place of `logprobs_NC`, their
            mean; None: none.
    """
    columns: dict[str, Any] = {"split": splits, "row_id": row_ids}
    for index in range(logprobs_NC.shape[1]):
        columns[f"logprob_{index}"] = logprobs_NC[:, index].astype(np.float32)
    if weights_N is not None:
        columns["weight"] = weights_N.astype(np.float32)
    if members is not None:
        columns |= _member_columns(members)
        weighting = type(members.weighting)
        place = f"{weighting.__module__}:{weighting.__qualname__}"
        fields = members.weighting.model_dump(mode="json") | {"kind": place}
        (folder / MEMBERS_FILE).write_text(json.dumps(fields, indent=1), encoding="utf-8")
    pd.DataFrame(columns).to_parquet(folder / PREDICTIONS_FILE, index=False)


def read_predictions(folder: Path) -> pd.DataFrame:
    """A predictions artifact as written."""
    return pd.read_parquet(folder / PREDICTIONS_FILE)


def read_members(folder: Path, frame: pd.DataFrame) -> Members | None:
    """The members of a predictions artifact, in the order of its rows; None: it has none."""
    if not (folder / MEMBERS_FILE).exists():
        return None
    weighting = json.loads((folder / MEMBERS_FILE).read_text(encoding="utf-8"))
    num_members = sum(name.startswith("member_") and name.endswith("_weight") for name in frame)
    num_classes = len(logprob_columns(frame))
    logprobs_NMC = np.stack(
        [
            frame[[f"member_{m}_logprob_{c}" for c in range(num_classes)]].to_numpy()
            for m in range(num_members)
        ],
        axis=1,
    )
    weights_NM = frame[[f"member_{m}_weight" for m in range(num_members)]].to_numpy()
    return Members(logprobs_NMC, weights_NM, parse(Weighting, weighting))


def _member_columns(members: Members) -> dict[str, NDArray[np.float32]]:
    columns: dict[str, NDArray[np.float32]] = {}
    _, num_members, num_classes = members.logprobs_NMC.shape
    for m in range(num_members):
        for c in range(num_classes):
            logprobs_N = members.logprobs_NMC[:, m, c]
            columns[f"member_{m}_logprob_{c}"] = logprobs_N.astype(np.float32)
        columns[f"member_{m}_weight"] = members.weights_NM[:, m].astype(np.float32)
    return columns


def logprob_columns(frame: pd.DataFrame) -> list[str]:
    """The log-probability columns in class order."""
    return sorted((c for c in frame.columns if c.startswith("logprob_")), key=lambda c: int(c[8:]))


def read_targets(
    folder: Path, splits: "Split | list[str]", row_ids: "list[str]", num_classes: int
) -> Targets:
    """What to learn from, in the order of `row_ids`.

    The folder holds either ground truth (one-hot), with `weight` and offset_{c} where supervisors
    learn one after the other, or another model's predictions (its probabilities).

    Args:
        folder: artifact folder.
        splits: the split of all rows, or of each.
        row_ids: N ids.
        num_classes: of the task.

    Raises:
        ValueError: the folder has no label for one of the rows.
    """
    members = offsets_NC = None
    if (folder / LABELS_FILE).exists():
        frame = pd.read_parquet(folder / LABELS_FILE)
        if "offset_0" in frame.columns:
            offsets_NC = frame[[f"offset_{c}" for c in range(num_classes)]].to_numpy(np.float32)
        values_NC = np.eye(num_classes, dtype=np.float32)[frame["label"].to_numpy()]
    else:
        frame = read_predictions(folder)
        values_NC = np.exp(frame[logprob_columns(frame)].to_numpy(np.float64))
        values_NC = (values_NC / values_NC.sum(1, keepdims=True)).astype(np.float32)
        members = read_members(folder, frame)
    wanted = list(
        zip([splits] * len(row_ids) if isinstance(splits, str) else splits, row_ids, strict=True)
    )
    position = {row: at for at, row in enumerate(zip(frame["split"], frame["row_id"], strict=True))}
    missing = [row for row in wanted if row not in position]
    if missing:
        names = " and ".join(dict.fromkeys(split for split, _ in wanted))
        raise ValueError(
            f"{len(missing)} of {len(wanted)} rows of {names} have no label in {folder.name}; "
            f"first: {missing[0][1]}"
        )
    chosen = [position[row] for row in wanted]
    weights_N = (
        frame["weight"].to_numpy(np.float32)
        if "weight" in frame.columns
        else np.ones(len(frame), dtype=np.float32)
    )
    return Targets(values_NC, weights_N, members, offsets_NC).take(chosen)
