"""Stages that make labels from labels: several members combined, and a shuffled control.

An ensemble is data like all else: its members are stages, joined by row id, and a small one shares
them with a larger one. M members, N rows, H held-out rows, C classes.
"""

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, model_validator

from w2s.combiners.base import Combiner, HeldOut
from w2s.combiners.mean import Mean
from w2s.spec import OneOf
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth, read_truth
from w2s.stages.labels import SMALLEST_PROBABILITY
from w2s.stages.predictions import logprob_columns, read_predictions, write_predictions

ENSEMBLE_FILE = "ensemble.json"


class Ensemble(Stage):
    """Members' class probabilities, combined (Lang et al. 2025; Sang et al. 2024)."""

    members: tuple[SerializeAsAny[Stage], ...] = Field(min_length=2)
    """Stages that leave predictions for the same rows."""
    combine: OneOf[Combiner] = Mean()
    """How probabilities are combined."""
    held_out: SerializeAsAny[Stage] | None = None
    """Truth of `weak_train` in which no member learnt the rows of weight 0: there a combiner is
    fitted."""
    size_by: GroundTruth | None = None
    """Truth of `val`, on which the number of members is chosen; None: all of them."""
    samples: tuple[SerializeAsAny[Stage], ...] = ()
    """Truth of `weak_train` as each member learnt it, for out-of-bag scores; empty: none."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.samples and len(self.samples) != len(self.members):
            raise ValueError("one sample a member")
        if self.combine.is_fitted and self.held_out is None:
            raise ValueError(f"{self.combine.kind} is fitted on held-out rows: give `held_out`")
        if self.size_by is None:
            self.combine.check_members(len(self.members))
        return self

    @property
    def name(self) -> str:
        """Readable name."""
        return f"ensemble-{len(self.members)}x{self.combine.kind}"

    def run(self, context: StageContext) -> None:
        """Write the combined predictions, and `ensemble.json`: size, scores it was chosen by.

        Members are joined by (split, row_id). Where members have sample weights, their mean is that
        of the row.

        Raises:
            ValueError: a member predicts other rows, or lacks rows that are needed of `weak_train`.
        """
        joined = joined_members(context, self.members)
        notes: dict[str, object] = {"num_members": len(self.members)}
        size = len(self.members)
        held_out = self._held_out(context, joined)
        if self.size_by is not None:
            truth = read_truth(context.path(self.size_by))
            val_N = joined.places("val", truth["row_id"].tolist())
            accuracies = accuracy_by_size(
                self.combine,
                joined.probabilities_MNC[:, val_N],
                truth["label"].to_numpy(np.int64),
                held_out,
            )
            size = 1 + int(np.argmax(accuracies))
            notes |= {"size": size, "val_accuracy_by_size": accuracies}
        if self.samples:
            notes["out_of_bag"] = self._out_of_bag(context, joined)
        probabilities_NC = prefix(self.combine, joined.probabilities_MNC, held_out, size)
        (context.output_dir / ENSEMBLE_FILE).write_text(json.dumps(notes, indent=1))
        write_predictions(
            context.output_dir,
            joined.index["split"].tolist(),
            joined.index["row_id"].tolist(),
            np.log(np.maximum(probabilities_NC, SMALLEST_PROBABILITY)),
            joined.weights_N,
        )

    def _held_out(self, context: StageContext, joined: "Joined") -> HeldOut | None:
        """What a combiner is fitted on."""
        if not self.combine.is_fitted:
            return None
        assert self.held_out is not None
        truth = read_truth(context.path(self.held_out))
        truth = truth.loc[truth["weight"] == 0]
        places_H = joined.places("weak_train", truth["row_id"].tolist())
        return HeldOut(joined.probabilities_MNC[:, places_H], truth["label"].to_numpy(np.int64))

    def _out_of_bag(self, context: StageContext, joined: "Joined") -> dict[str, object]:
        """Accuracy on rows of `weak_train` of the members that did not learn them."""
        truths = [read_truth(context.path(sample)) for sample in self.samples]
        row_ids = truths[0]["row_id"].tolist()
        out_MN = np.stack(
            [truth.set_index("row_id").loc[row_ids, "weight"].to_numpy() == 0 for truth in truths]
        )
        places_N = joined.places("weak_train", row_ids)
        return out_of_bag(
            joined.probabilities_MNC[:, places_N], truths[0]["label"].to_numpy(np.int64), out_MN
        )


def prefix(
    combiner: Combiner, probabilities_MNC: NDArray[np.float64], held_out: HeldOut | None, size: int
) -> NDArray[np.float64]:
    """The combination [N, C] of the first `size` members; of one, that member itself."""
    if size == 1:
        return probabilities_MNC[0]
    if held_out is not None:
        held_out = HeldOut(held_out.probabilities_MHC[:size], held_out.labels_H)
    return combiner.combine(probabilities_MNC[:size], held_out)


def accuracy_by_size(
    combiner: Combiner,
    probabilities_MNC: NDArray[np.float64],
    labels_N: NDArray[np.int64],
    held_out: HeldOut | None = None,
) -> list[float]:
    """Accuracy of the first 1, 2, ... M members, combined."""
    return [
        float((prefix(combiner, probabilities_MNC, held_out, size).argmax(1) == labels_N).mean())
        for size in range(1, len(probabilities_MNC) + 1)
    ]


def out_of_bag(
    probabilities_MNC: NDArray[np.float64], labels_N: NDArray[np.int64], out_MN: NDArray[np.bool_]
) -> dict[str, object]:
    """Accuracy on rows that were not learnt (Breiman 1996, out-of-bag estimation).

    Args:
        probabilities_MNC: of the members, on rows of the training split.
        labels_N: truth.
        out_MN: whether a member did not learn a row.

    Returns:
        `members`: accuracy of each on its own such rows (None without any); `ensemble`: that of the
        mean over the members that did not learn the row; `num_rows`: rows that some member did not
        learn.
    """
    right_MN = probabilities_MNC.argmax(2) == labels_N
    members = [
        float(right_N[out_N].mean()) if out_N.any() else None
        for right_N, out_N in zip(right_MN, out_MN, strict=True)
    ]
    some_N = out_MN.any(0)
    sums_NC = (probabilities_MNC * out_MN[:, :, None]).sum(0)[some_N]
    whole = float((sums_NC.argmax(1) == labels_N[some_N]).mean()) if some_N.any() else None
    return {"members": members, "ensemble": whole, "num_rows": int(some_N.sum())}


class Joined:
    """The rows that all members predict, in the order of the first.

    Members may differ in which rows of `weak_train` they predict, and in no others.
    """

    index: pd.DataFrame
    """split, row_id."""
    probabilities_MNC: NDArray[np.float64]
    """What each member says."""
    weights_N: NDArray[np.float64] | None
    """Mean of the members' sample weights; None: no member has any."""

    def __init__(self, folders: list[Path], members: tuple[Stage, ...]) -> None:
        frames = [read_predictions(folder).set_index(["split", "row_id"]) for folder in folders]
        rows = frames[0].index
        shared_N = np.ones(len(rows), dtype=bool)
        for frame, member in zip(frames, members, strict=True):
            shared_N &= rows.isin(frame.index)
            labelled = [
                np.asarray(index.get_level_values(0) != "weak_train")
                for index in (rows, frame.index)
            ]
            if not shared_N[labelled[0]].all() or labelled[0].sum() != labelled[1].sum():
                raise ValueError(
                    f"member {member.name} ({member.key}) predicts other rows than the first member"
                )
        rows = rows[shared_N]
        self.index = rows.to_frame(index=False)
        columns = logprob_columns(frames[0])
        values, weights = [], []
        for frame in frames:
            frame = frame.loc[rows]
            probabilities_NC = np.exp(frame[columns].to_numpy(np.float64))
            values.append(probabilities_NC / probabilities_NC.sum(1, keepdims=True))
            weighed = "weight" in frame.columns
            weights.append(frame["weight"].to_numpy(np.float64) if weighed else np.ones(len(rows)))
        self.probabilities_MNC = np.stack(values)
        weighed = any("weight" in frame.columns for frame in frames)
        self.weights_N = np.mean(weights, axis=0) if weighed else None
        self._place = {row: place for place, row in enumerate(rows)}

    def places(self, split: str, row_ids: list[str]) -> NDArray[np.int64]:
        """Where some rows of a split are."""
        missing = [row_id for row_id in row_ids if (split, row_id) not in self._place]
        if missing:
            raise ValueError(
                f"the members do not predict {len(missing)} of {len(row_ids)} rows of {split} that "
                f"their combination needs; first: {missing[0]}"
            )
        return np.array([self._place[split, row_id] for row_id in row_ids], dtype=np.int64)


def joined_members(context: StageContext, members: tuple[Stage, ...]) -> Joined:
    """The predictions of some stages, joined by (split, row_id).

    Raises:
        ValueError: a member predicts other rows of `strong_train`, `val` or `test` than the first.
    """
    return Joined([context.path(member) for member in members], members)


def read_ensemble(folder: Path) -> dict[str, Any]:
    """What an ensemble said of itself (size, out-of-bag scores, votes); empty for other stages."""
    path = folder / ENSEMBLE_FILE
    return json.loads(path.read_text()) if path.exists() else {}


class ShuffledLabels(Stage):
    """Predictions of `labels`, exchanged at random among the rows of each split.

    The control whose student must come out at chance: same label distribution, no relation to the
    row.
    """

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    seed: int
    """Seed of the permutation."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"shuffled-labels-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write the permuted predictions."""
        frame = read_predictions(context.path(self.labels))
        values = frame[logprob_columns(frame)].to_numpy(np.float64, copy=True)
        generator = np.random.default_rng(self.seed)
        for split in frame["split"].unique():
            rows = np.flatnonzero(frame["split"] == split)
            values[rows] = values[generator.permutation(rows)]
        write_predictions(
            context.output_dir, frame["split"].tolist(), frame["row_id"].tolist(), values
        )
