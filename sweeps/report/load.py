"""From a sweep's results to cells: what one line of a table is about, and its test rows as arrays.

A `Cell` is a pair, a method and a loss within a block, over one task or all of them; of a
searched cell it holds the trial that was best on `val`. `Board` keeps the test rows of every
evaluation in one order and stacks them for `w2s.statistics`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.results import Role, SeedKeys, SweepResults, TrialResult
from w2s.errors import UserError

Floats = NDArray[np.float64]


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
    def assisted(self) -> bool:
        """Whether the supervisor is another one than the unaided weak model."""
        return any(keys.supervisor != keys.floor for trial in self.trials for keys in trial.keys)

    @property
    def has_members(self) -> bool:
        """Whether the supervisor combines others that are scored alone."""
        return all(keys.members for trial in self.trials for keys in trial.keys)

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


class _Rows:
    """Test rows of one evaluation, by row id."""

    __slots__ = ("correct", "group", "predicted", "row_id")

    def __init__(self, frame: pd.DataFrame) -> None:
        frame = frame.iloc[np.argsort(frame["row_id"].to_numpy(str), kind="stable")]
        self.row_id = frame["row_id"].to_numpy(str)
        self.group = frame["group"].to_numpy(str)
        self.correct = frame["correct"].to_numpy(np.float64)
        self.predicted = frame["predicted"].to_numpy(np.int64)


class Board:
    """The test rows of a sweep, ready for statistics."""

    def __init__(self, results: SweepResults) -> None:
        """Sort the rows of every evaluation once."""
        self.results = results
        test = results.rows[results.rows["split"] == "test"]
        self._rows = {
            str(key): _Rows(test.loc[index])
            for key, index in test.groupby("key", observed=True, sort=False).groups.items()
        }

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

    def correct(self, cell: Cell, role: Role) -> Floats:
        """Whether a role was right: [S seeds, N rows of all tasks], 1 or 0."""
        return self._stack(cell, lambda keys: self._of(getattr(keys, role)).correct)

    def members_correct(self, cell: Cell) -> Floats:
        """Mean over an ensemble's members of whether each was right: [S, N], 0 to 1."""
        return self._stack(
            cell, lambda keys: np.mean([self._of(key).correct for key in keys.members], axis=0)
        )

    def agree(self, cell: Cell) -> Floats:
        """Whether student and supervisor predict the same class: [S, N], 1 or 0."""

        def same(keys: SeedKeys) -> Floats:
            student, supervisor = self._of(keys.student), self._of(keys.supervisor)
            return (student.predicted == supervisor.predicted).astype(np.float64)

        return self._stack(cell, same)

    def groups(self, cell: Cell) -> NDArray[np.str_]:
        """Cluster of each row: [N]; groups of different tasks differ."""
        return np.concatenate(
            [
                np.char.add(f"{index}:", self._of(trial.keys[0].student).group)
                for index, trial in enumerate(cell.trials)
            ]
        )

    def _of(self, key: str) -> _Rows:
        if key not in self._rows:
            raise UserError(
                f"the results have no test rows of evaluation {key}; run the sweep again to "
                "complete them"
            )
        return self._rows[key]

    def _stack(self, cell: Cell, values: Callable[[SeedKeys], Floats]) -> Floats:
        """Values of each seed and task as one array; the rows of a task must be the same."""
        seeds = cell.seeds
        columns = []
        for trial in cell.trials:
            by_seed = {keys.seed: keys for keys in trial.keys}
            self._check_same_rows(by_seed[seed] for seed in seeds)
            columns.append(np.stack([values(by_seed[seed]) for seed in seeds]))
        return np.hstack(columns)

    def _check_same_rows(self, seeds: Iterable[SeedKeys]) -> None:
        expected = None
        for keys in seeds:
            for key in (keys.floor, keys.supervisor, keys.student, keys.ceiling, *keys.members):
                rows = self._of(key).row_id
                expected = rows if expected is None else expected
                if not np.array_equal(rows, expected):
                    raise ValueError(
                        f"evaluation {key} is of other test rows than those it is compared with"
                    )


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
