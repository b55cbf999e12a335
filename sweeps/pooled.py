"""Tables of a whole sweep from what its stages left: rows, checkpoints, generations, curves.

What `SweepResults` is made of, where text that repeats is a category.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.events import StageRecord
from w2s.stages.checkpoints import CHOICES, ComparedCheckpoints
from w2s.stages.recursion import Generation

REPORTED_SPLITS = ("val", "test")


class _Words:
    """Numbers of the words of one column, in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def numbers(self, words: Iterable[str]) -> NDArray[np.int32]:
        codes, uniques = pd.factorize(np.asarray(words, dtype=object))
        known = [self._numbers.setdefault(str(word), len(self._numbers)) for word in uniques]
        return np.array(known, dtype=np.int32)[codes]

    def column(self, numbers: list[NDArray[np.int32]]) -> pd.Categorical:
        joined = np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.int32)
        return pd.Categorical.from_codes(joined, categories=list(self._numbers))


def pooled_rows(frames: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """One frame from the scored rows of many evaluations, `val` and `test` only.

    Frames are taken one at a time and shrunk, so that thousands of them fit into memory.

    Args:
        frames: key of the evaluate stage, and split, row_id, group, label, predicted, correct,
            prob_0 ...; other columns are left out.

    Returns:
        key, split, row_id, group, label, predicted, correct, prob_0 ... (NaN for classes that a
        task does not have).
    """
    words = {name: _Words() for name in ("key", "split", "row_id", "group")}
    numbers: dict[str, list[NDArray[np.int32]]] = {name: [] for name in words}
    values: list[pd.DataFrame] = []
    for key, frame in frames:
        part = frame.loc[frame["split"].isin(REPORTED_SPLITS)]
        for name in ("split", "row_id", "group"):
            numbers[name].append(words[name].numbers(part[name].tolist()))
        numbers["key"].append(words["key"].numbers([key] * len(part)))
        scored = {
            "label": np.asarray(part["label"], dtype=np.int32),
            "predicted": np.asarray(part["predicted"], dtype=np.int32),
            "correct": np.asarray(part["correct"], dtype=bool),
        }
        probabilities = {
            name: np.asarray(part[name], dtype=np.float32)
            for name in part.columns
            if name.startswith("prob_")
        }
        values.append(pd.DataFrame(scored | probabilities))
    pooled = pd.concat(values, ignore_index=True) if values else pd.DataFrame(columns=_SCORED)
    named = {name: words[name].column(numbers[name]) for name in words}
    probabilities = sorted(
        (name for name in pooled.columns if name not in _SCORED), key=lambda name: int(name[5:])
    )
    return pd.DataFrame(named).join(pooled[[*_SCORED, *probabilities]])


_SCORED = ["label", "predicted", "correct"]


def pooled_checkpoints(compared: Mapping[str, ComparedCheckpoints]) -> pd.DataFrame:
    """Checkpoints of many evaluations as one frame.

    Args:
        compared: by key of the evaluate stage.

    Returns:
        key, step, epoch, test_accuracy, val_agreement (NaN without a supervisor), and last,
        best_val, oracle: whether that rule chooses this checkpoint.
    """
    lines = [
        (
            key,
            point.step,
            point.epoch,
            point.test_accuracy,
            np.nan if point.val_agreement is None else point.val_agreement,
            *(run.steps.get(choice) == point.step for choice in CHOICES),
        )
        for key, run in compared.items()
        for point in run.curve
    ]
    scores = ["epoch", "test_accuracy", "val_agreement"]
    types = {"key": "str", "step": "int64", **dict.fromkeys(scores, "float64")}
    types |= dict.fromkeys(CHOICES, "bool")
    return pd.DataFrame(lines, columns=list(types)).astype(types)


def pooled_generations(found: Mapping[str, Sequence[Generation]]) -> pd.DataFrame:
    """Generations of many recursions as one frame.

    Args:
        found: by key of the evaluate stage.

    Returns:
        key, number, agreement (share of `val`), kept_share (NaN: no aligner learnt of it),
        selected.
    """
    lines = [
        (
            key,
            each.number,
            each.agreement,
            np.nan if each.kept_share is None else each.kept_share,
            each.selected,
        )
        for key, generations in found.items()
        for each in generations
    ]
    types = {"key": "str", "number": "int64", "agreement": "float64", "kept_share": "float64"}
    types["selected"] = "bool"
    return pd.DataFrame(lines, columns=list(types)).astype(types)


def difficulties(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Difficulty of the test rows of many tasks as one frame.

    Args:
        found: by label of the task: split, row_id, difficulty (number of rungs that fail: the index
            of the smallest from which on all are right).

    Returns:
        task, row_id, difficulty.
    """
    frames = [
        frame.loc[frame["split"] == "test", ["row_id", "difficulty"]].assign(task=task)
        for task, frame in found.items()
    ]
    columns = ["task", "row_id", "difficulty"]
    pooled = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return pooled.loc[:, columns].astype({"task": "str", "row_id": "str", "difficulty": "int64"})


def pooled_oversight(
    frames: Iterable[tuple[str, pd.DataFrame, Mapping[str, str], bool]],
) -> pd.DataFrame:
    """What many judges made of transcripts about test rows, as one frame.

    Args:
        frames: key of the oversight stage; its rows; names of models by their keys; and whether its
            transcripts are a control, whose words are not about the row.

    Returns:
        key, control, and the columns of `w2s.stages.oversight.overseen_rows` but split, with names
        of models in the place of their keys.
    """
    parts = [
        frame.loc[frame["split"] == "test"]
        .drop(columns="split")
        .assign(
            key=key,
            control=control,
            **{
                name: frame[name].map(lambda model, names=names: names.get(model, model))
                for name in ("model_correct", "model_incorrect")
            },
        )
        for key, frame, names, control in frames
    ]
    types = {
        **dict.fromkeys(("key", "row_id", "group", "verdict"), "category"),
        **dict.fromkeys(("position_a", "position_last"), "category"),
        **dict.fromkeys(("model_correct", "model_incorrect"), "category"),
        **dict.fromkeys(("label", "words_correct", "words_incorrect"), "int32"),
        **dict.fromkeys(("prob_with", "prob_without"), "float32"),
        "control": "bool",
    }
    pooled = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(types))
    return pooled.loc[:, list(types)].astype(types)


def pooled_curves(records: Iterable[StageRecord]) -> pd.DataFrame:
    """Every metric of every curve as one long frame: key, name, kind, step, metric, value."""
    lines = [
        (record.key, record.name, record.kind, point.step, metric, float(value))
        for record in records
        for point in record.curve
        for metric, value in point.metrics.items()
    ]
    frame = pd.DataFrame(lines, columns=["key", "name", "kind", "step", "metric", "value"])
    frame = frame.astype({"step": "int64", "value": "float64"})
    return frame.astype(dict.fromkeys(("key", "name", "kind", "metric"), "category"))
