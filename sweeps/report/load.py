"""From a sweep's results to cells: what one line of a table is about, and its scores.

A `Cell` is a pair, a method and a loss within a block, over one task or all of them; of a
searched cell it holds the trial that was best on `val`. `Board` gives the scores of a cell, task by
task, as numbers that stay paired (`w2s.statistics.Resampled`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.report.samples import Samples, Score, TestRows, test_rows
from sweeps.results import Role, SeedKeys, SweepResults, TrialResult
from w2s import statistics
from w2s.resamples import CEILING, TEACHING
from w2s.stages.checkpoints import CHOICES, Choice
from w2s.statistics import Resampled

Measure = Literal["accuracy", "auroc"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of a table: the same pair, method and loss on one or more tasks."""

    block: str
    """Name of the block."""
    weak: str
    """Rung of the supervisor."""
    strong: str
    """Rung of student and ceiling."""
    method: str
    """Label of the method."""
    loss: str
    """Label of the loss."""
    trials: tuple[TrialResult, ...]
    """One finished trial per task."""
    num_searched: int = 0
    """Points of the search it was chosen from, on each task; 0: a grid point."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that every task has, in order."""
        shared = set.intersection(*(set(trial.seeds) for trial in self.trials))
        return tuple(sorted(shared))

    @property
    def by_task(self) -> list[list[SeedKeys]]:
        """Evaluations of each task, at the seeds that every task has."""
        shared = self.seeds
        return [
            sorted((keys for keys in trial.keys if keys.seed in shared), key=lambda keys: keys.seed)
            for trial in self.trials
        ]

    @property
    def arms(self) -> list[str]:
        """Names of what else the method has scored, on every task and seed."""
        named = [keys.arms for seeds in self.by_task for keys in seeds]
        return [name for name in named[0] if all(name in arms for arms in named)]

    @property
    def assisted(self) -> bool:
        """Whether the supervisor is another one than the unaided weak model."""
        return any(keys.supervisor != keys.floor for trial in self.trials for keys in trial.keys)

    @property
    def has_members(self) -> bool:
        """Whether the supervisor combines others that are scored alone."""
        return all(keys.members for trial in self.trials for keys in trial.keys)

    @property
    def reads(self) -> bool:
        """Whether the supervisor, or a member of it, reads something about each row."""
        return any(keys.oversight for trial in self.trials for keys in trial.keys)

    def of_task(self, task: str) -> "Cell":
        """The same cell on one of its tasks."""
        return Cell(
            self.block,
            self.weak,
            self.strong,
            self.method,
            self.loss,
            tuple(trial for trial in self.trials if trial.task == task),
            self.num_searched,
        )


class Board:
    """The cells of a sweep and their scores."""

    def __init__(self, results: SweepResults) -> None:
        """Take the results of a sweep."""
        self.results = results

    @cached_property
    def cells(self) -> list[Cell]:
        """Finished cells over all tasks, in the order of blocks and trials."""
        groups: dict[tuple[str, ...], list[TrialResult]] = {}
        for trial in self.results.trials:
            groups.setdefault(_cell_key(trial), []).append(trial)
        found = []
        for trials in groups.values():
            chosen = _chosen(trials)
            if not chosen:
                continue
            first = chosen[0]
            cell = Cell(
                first.block,
                first.weak,
                first.strong,
                first.method,
                first.loss,
                chosen,
                len(trials) // len(chosen) if first.searched else 0,
            )
            if cell.seeds:
                found.append(cell)
        return found

    @property
    def failures(self) -> list[TrialResult]:
        """Trials that failed."""
        return [trial for trial in self.results.trials if trial.status == "failed"]

    def searches(self) -> list[list[TrialResult]]:
        """Searched trials by cell and task, best on `val` first."""
        groups: dict[tuple[str, ...], list[TrialResult]] = {}
        for trial in self.results.trials:
            if trial.searched:
                groups.setdefault((*_cell_key(trial), trial.task), []).append(trial)
        return [sorted(trials, key=_rank) for trials in groups.values()]

    @cached_property
    def samples(self) -> Samples:
        """Scores of every evaluation that a cell names."""
        rows, ids = test_rows(self.results.rows)
        trials = {trial.trial_id: trial for cell in self.cells for trial in cell.trials}
        frame = self.results.difficulty
        numbers = pd.Index(ids).get_indexer(pd.Index(frame["row_id"]))
        difficulty: dict[str, NDArray[np.integer]] = {}
        for task in frame["task"].unique():
            mine = (frame["task"] == task).to_numpy() & (numbers >= 0)
            difficulty[task] = np.full(len(ids), -1)
            difficulty[task][numbers[mine]] = frame["difficulty"].to_numpy()[mine]
        return Samples(rows, trials.values(), difficulty)

    @cached_property
    def stopped(self) -> dict[Choice, dict[str, float]]:
        """Test accuracy of the checkpoint that each rule chooses, by key of the evaluation."""
        frame = self.results.checkpoints
        found: dict[Choice, dict[str, float]] = {}
        for choice in CHOICES:
            chosen = frame.loc[frame[choice]]
            found[choice] = dict(zip(chosen["key"], chosen["test_accuracy"], strict=True))
        return found

    def role(self, cell: Cell, role: Role, measure: Measure = "accuracy") -> list[Resampled] | None:
        """A score of a role on each task; None if some task has no such score."""
        stream = CEILING if role == "ceiling" else TEACHING
        return self._numbers(cell, lambda keys: (measure, getattr(keys, role)), stream)

    def accuracy(self, cell: Cell, role: Role) -> list[Resampled]:
        """Accuracy of a role on each task."""
        return self.role(cell, role) or []

    def members(self, cell: Cell) -> list[Resampled]:
        """Mean accuracy of an ensemble's members on each task."""
        count = min(len(keys.members) for trial in cell.trials for keys in trial.keys)
        by_member = [
            self._numbers(cell, lambda keys, i=i: ("accuracy", keys.members[i])) or []
            for i in range(count)
        ]
        return [statistics.mean_over(members) for members in zip(*by_member, strict=True)]

    def arm(self, cell: Cell, name: str) -> list[Resampled]:
        """Accuracy of one arm of the method on each task."""
        return self._numbers(cell, lambda keys: ("accuracy", keys.arms[name])) or []

    def agreement(self, cell: Cell) -> list[Resampled]:
        """Share of rows on which student and supervisor predict the same class, on each task."""
        return self._numbers(cell, lambda keys: ("same", keys.student, keys.supervisor)) or []

    def agreement_where(self, cell: Cell, where: Literal["right", "wrong"]) -> list[Resampled]:
        """The same among rows on which the supervisor is right or wrong; NaN if it never is."""
        same = self._numbers(cell, lambda keys: (f"same_{where}", keys.student, keys.supervisor))
        measure = "accuracy" if where == "right" else "wrong"
        all_such = self._numbers(cell, lambda keys: (measure, keys.supervisor))
        return [first / second for first, second in zip(same or [], all_such or [], strict=True)]

    def at_level(self, cell: Cell, role: Role, level: int) -> list[Resampled]:
        """Accuracy of a role on rows of one difficulty, on those tasks that have such rows."""
        stream = CEILING if role == "ceiling" else TEACHING
        found = []
        for trial in cell.trials:
            share = ("level", trial.task, str(level))
            if self.samples.point(share):
                part = cell.of_task(trial.task)
                right = self._numbers(
                    part, lambda keys: ("right_at", str(level), getattr(keys, role)), stream
                )
                found += [each / self.samples.number([share]) for each in right or []]
        return found

    def rows(self, trial: TrialResult, keys: SeedKeys, role: Role) -> TestRows:
        """Test rows of a role of one trial at one seed."""
        return self.samples.rows(getattr(keys, role))

    def num_rows(self, cell: Cell) -> int:
        """Test rows of all tasks."""
        return sum(len(self.samples.rows(trial.keys[0].student).row) for trial in cell.trials)

    def _numbers(
        self,
        cell: Cell,
        score: Callable[[SeedKeys], Score],
        stream: int = TEACHING,
    ) -> list[Resampled] | None:
        """One score on each task, over the seeds that the cell has on all of them."""
        numbers = []
        for seeds in cell.by_task:
            scores = [score(keys) for keys in seeds]
            if any(self.samples.point(each) is None for each in scores):
                return None
            numbers.append(self.samples.number(scores, stream))
        return numbers


def _cell_key(trial: TrialResult) -> tuple[str, ...]:
    searches_method = any(path.startswith("method.") for path in trial.hyperparameters)
    method = trial.method_kind if searches_method else trial.method
    return trial.block, trial.weak, trial.strong, method, trial.loss, str(trial.searched)


def _rank(trial: TrialResult) -> tuple[bool, float]:
    """Sorts the best finished trial first."""
    score = trial.objective if trial.objective is not None else float("-inf")
    return trial.status != "done", -score


def _chosen(trials: list[TrialResult]) -> tuple[TrialResult, ...]:
    """Of each task the finished trial that was best on `val`."""
    by_task: dict[str, list[TrialResult]] = {}
    for trial in trials:
        if trial.status == "done":
            by_task.setdefault(trial.task, []).append(trial)
    return tuple(min(candidates, key=_rank) for candidates in by_task.values())
