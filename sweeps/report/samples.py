"""Scores of evaluations on their test rows, and what every resample of those rows makes of them.

A task's rows are drawn once for all evaluations on it, in one pass that is then forgotten; what
stays is one number a resample for each score. Any comparison afterwards, within a task or over
many, is arithmetic on these (`w2s.statistics.Resampled`).

R resamples, N test rows, C classes, S seeds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.results import SeedKeys, TrialResult
from w2s import metrics, statistics
from w2s.errors import UserError
from w2s.resamples import TEACHING, Resamples, seed_weights

Floats = NDArray[np.floating]
BOOTSTRAP_SEED = 0
AUROC_RESAMPLES = 1000
"""Resamples on which AUROC is computed; each costs a pass over the rows."""

Score = tuple[str, ...]
"""What is scored: a measure and the keys of one or two evaluations."""


@dataclass(frozen=True, slots=True)
class TestRows:
    """Test rows of one evaluation, by row id."""

    row: NDArray[np.integer]
    """Number of the row id, ascending: [N]."""
    group: NDArray[np.integer]
    """Number of the row's cluster: [N]."""
    label: NDArray[np.integer]
    """Truth: [N]."""
    predicted: NDArray[np.integer]
    """Predicted class: [N]."""
    correct: Floats
    """1 where it is right, else 0: [N]."""
    probabilities: Floats
    """[N, C]."""


def test_rows(rows: pd.DataFrame) -> tuple[dict[str, TestRows], list[str]]:
    """The test rows of every evaluation, and the ids that the row numbers stand for.

    Args:
        rows: as `sweeps.results.pooled_rows` makes them.
    """
    test = rows.loc[rows["split"] == "test"]
    keys = pd.Categorical(test["key"])
    ids = pd.Categorical(test["row_id"])
    names = np.asarray(ids.categories, dtype=str)
    rank = np.empty(len(names), dtype=np.int64)
    by_name = np.argsort(names, kind="stable")
    rank[by_name] = np.arange(len(names))
    row = rank[ids.codes] if len(names) else np.zeros(0, dtype=np.int64)
    order = np.lexsort((row, keys.codes))
    group = pd.Categorical(test["group"]).codes.astype(np.int64)
    columns = [name for name in test.columns if name.startswith("prob_")]
    values = {name: np.asarray(test[name])[order] for name in ("label", "predicted", "correct")}
    probabilities = np.asarray(test[columns], dtype=np.float32)[order]
    bounds = np.searchsorted(keys.codes[order], np.arange(len(keys.categories) + 1))
    found: dict[str, TestRows] = {}
    for key, start, end in zip(keys.categories, bounds[:-1], bounds[1:], strict=True):
        if start == end:
            continue
        part = slice(start, end)
        own = probabilities[part]
        found[str(key)] = TestRows(
            row=row[order[part]],
            group=group[order[part]],
            label=values["label"][part],
            predicted=values["predicted"][part],
            correct=values["correct"][part].astype(np.float64),
            # A task has fewer classes than another: its columns end in NaN.
            probabilities=own[:, ~np.isnan(own[0])],
        )
    return found, names[by_name].tolist()


class Samples:
    """Every score that the report needs, on all test rows and in each resample of them."""

    def __init__(
        self,
        rows: Mapping[str, TestRows],
        trials: Iterable[TrialResult],
        difficulty: Mapping[str, NDArray[np.integer]],
    ) -> None:
        """Score the evaluations of these trials.

        Args:
            rows: test rows by key of the evaluation.
            trials: finished trials.
            difficulty: by task the difficulty of every row number, -1 where it was not measured.

        Raises:
            UserError: an evaluation has no rows.
            ValueError: a trial compares evaluations of different rows.
        """
        self._rows = rows
        self._points: dict[Score, float] = {}
        self._values: dict[Score, Floats] = {}
        by_rows: dict[bytes, list[tuple[TrialResult, SeedKeys]]] = {}
        for trial in trials:
            for keys in trial.keys:
                self._check_same_rows(keys)
                student = self._of(keys.student)
                place = student.row.tobytes() + student.label.tobytes()
                by_rows.setdefault(place, []).append((trial, keys))
        for index, members in enumerate(by_rows.values()):
            self._fill(index, members, difficulty)

    def number(self, scores: Iterable[Score], stream: int = TEACHING) -> statistics.Resampled:
        """One number from the scores of several seeds.

        Args:
            scores: the score of each seed.
            stream: scores of one stream have their seeds drawn together.
        """
        scores = list(scores)
        values_SR = np.stack([self._values[score] for score in scores]).astype(np.float64)
        return statistics.over_seeds(
            np.array([self._points[score] for score in scores]),
            values_SR,
            _seed_weights(len(scores), stream, values_SR.shape[1]),
        )

    def point(self, score: Score) -> float | None:
        """A score on all rows; None if there is none, such as AUROC of three classes."""
        return self._points.get(score)

    def rows(self, key: str) -> TestRows:
        """Test rows of one evaluation."""
        return self._of(key)

    def _of(self, key: str) -> TestRows:
        if key not in self._rows:
            raise UserError(
                f"the results have no test rows of evaluation {key}; run the sweep again to "
                "complete them"
            )
        return self._rows[key]

    def _check_same_rows(self, keys: SeedKeys) -> None:
        expected = self._of(keys.floor).row
        for key in keys.evaluations:
            if not np.array_equal(self._of(key).row, expected):
                raise ValueError(
                    f"evaluation {key} is of other test rows than those it is compared with"
                )

    def _fill(
        self,
        index: int,
        members: "list[tuple[TrialResult, SeedKeys]]",
        difficulty: Mapping[str, NDArray[np.integer]],
    ) -> None:
        """Score all evaluations of the same rows."""
        first = self._of(members[0][1].student)
        resamples = Resamples(len(first.row), seed=[BOOTSTRAP_SEED, index], groups=first.group)
        means: dict[Score, Floats] = {}
        ranked: dict[Score, Floats] = {}
        for trial, keys in members:
            for key in keys.evaluations:
                mine = self._of(key)
                means["accuracy", key] = mine.correct
                if mine.probabilities.shape[1] == 2:
                    ranked["auroc", key] = mine.probabilities[:, 1]
            means |= self._agreement(keys)
            if trial.task in difficulty:
                means |= self._by_difficulty(trial.task, keys, difficulty[trial.task][first.row])
        values_KR = resamples.means(np.stack(list(means.values()))).astype(np.float32)
        for (score, scores_N), values_R in zip(means.items(), values_KR, strict=True):
            self._points[score], self._values[score] = float(scores_N.mean()), values_R
        positive_N = first.label == 1
        if not ranked or positive_N.all() or not positive_N.any():
            return
        values_KR = resamples.auroc(
            np.stack(list(ranked.values())), positive_N, AUROC_RESAMPLES
        ).astype(np.float32)
        for (score, scores_N), values_R in zip(ranked.items(), values_KR, strict=True):
            self._points[score] = metrics.auroc(scores_N, first.label)
            self._values[score] = values_R

    def _agreement(self, keys: SeedKeys) -> dict[Score, Floats]:
        """Rows on which student and supervisor agree, where it is right, and where it is wrong."""
        student, supervisor = self._of(keys.student), self._of(keys.supervisor)
        same_N = (student.predicted == supervisor.predicted).astype(np.float64)
        pair = (keys.student, keys.supervisor)
        return {
            ("same", *pair): same_N,
            ("same_right", *pair): same_N * supervisor.correct,
            ("same_wrong", *pair): same_N * (1 - supervisor.correct),
            ("wrong", keys.supervisor): 1 - supervisor.correct,
        }

    def _by_difficulty(
        self, task: str, keys: SeedKeys, level_N: NDArray[np.integer]
    ) -> dict[Score, Floats]:
        """Rows of each level of difficulty, and those of them that a role has right."""
        found: dict[Score, Floats] = {}
        for level in np.unique(level_N[level_N >= 0]).tolist():
            own_N = (level_N == level).astype(np.float64)
            found["level", task, str(level)] = own_N
            for key in (keys.floor, keys.student, keys.ceiling):
                found["right_at", str(level), key] = self._of(key).correct * own_N
        return found


@lru_cache
def _seed_weights(num_seeds: int, stream: int, num_resamples: int) -> Floats:
    return seed_weights(num_seeds, stream=stream, seed=BOOTSTRAP_SEED, num_resamples=num_resamples)
