"""The search: grid points as they stand, then one Optuna study per searched cell.

`SweepSearcher` is the Ray Tune searcher of a sweep. Grid points never go through TPE. A searched
cell has a study in a journal file, named by all that can change its objective: a rerun replays the
trials it finds there and asks TPE only for those that are missing, so nothing depends on Tune's own
state.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from sweeps.plan import Cell, Planner, Point
from sweeps.space import split_path
from sweeps.trial import OBJECTIVE
from w2s.spec import digest


@dataclass(slots=True)
class _Asked:
    """A trial that TPE suggested and Tune runs."""

    study: optuna.Study
    trial: optuna.Trial


class SweepSearcher(Searcher):
    """Hands out the points of a sweep, one Tune trial each."""

    def __init__(
        self, planner: Planner, studies: Path, configure: Callable[[Point], dict[str, Any]]
    ) -> None:
        """Prepare every cell.

        Args:
            planner: of the sweep.
            studies: folder of the journal files.
            configure: makes the Tune config of a point; called once a point, in this process.
        """
        super().__init__(metric=OBJECTIVE, mode="max")
        self._planner = planner
        self._studies_dir = studies
        self._configure = configure
        self._asked: dict[str, _Asked] = {}
        cells = planner.cells()
        self._fixed = deque(Point(cell) for cell in cells if not cell.num_trials)
        self._open: deque[tuple[Cell, optuna.Study, int]] = deque()
        for cell in cells:
            if cell.num_trials:
                self._open_study(cell)

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        """Nothing of it is kept: Tune pickles a searcher to resume it; this has its journals."""
        return Searcher, ()

    def _open_study(self, cell: Cell) -> None:
        study = open_study(self._planner, cell, self._studies_dir)
        missing = cell.num_trials
        for trial in study.get_trials(deepcopy=False):
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and missing:
                self._fixed.append(Point(cell, dict(trial.params)))
                missing -= 1
        if missing:
            self._open.append((cell, study, missing))

    def certain_points(self) -> list[Point]:
        """The points that no study has to suggest: the grid's, and those that are replayed."""
        return list(self._fixed)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The config of the next point; grid and replayed points first, then the cells in turn."""
        if self._fixed:
            return self._configure(self._fixed.popleft())
        if not self._open:
            return Searcher.FINISHED
        cell, study, missing = self._open.popleft()
        trial = study.ask()
        values = {path: distribution.suggest(trial, path) for path, distribution in cell.space}
        self._asked[trial_id] = _Asked(study, trial)
        if missing > 1:
            self._open.append((cell, study, missing - 1))
        return self._configure(Point(cell, values))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how a suggested trial ended; one stopped by a scheduler is pruned."""
        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        if error or result is None or OBJECTIVE not in result:
            asked.study.tell(asked.trial, state=TrialState.FAIL)
        elif result.get("complete"):
            asked.study.tell(asked.trial, result[OBJECTIVE])
        else:
            asked.trial.report(result[OBJECTIVE], step=int(result.get("training_iteration", 1)))
            asked.study.tell(asked.trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal files are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal files are the state."""


def recorded_points(planner: Planner, studies: Path) -> list[Point] | None:
    """All points of a sweep if no study has to suggest any more, else None."""
    points: list[Point] = []
    for cell in planner.cells():
        ended = ended_points(planner, cell, studies)
        if len(ended) < max(1, cell.num_trials):
            return None
        points.extend(ended)
    return points


def ended_points(planner: Planner, cell: Cell, studies: Path) -> list[Point]:
    """The point of a cell of the grid; of a searched one those whose trials ended, as asked for."""
    if not cell.num_trials:
        return [Point(cell)]
    if not _journal(studies, study_name(planner, cell)).exists():
        return []
    ended = [
        trial
        for trial in open_study(planner, cell, studies).get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    return [Point(cell, dict(trial.params)) for trial in ended[: cell.num_trials]]


def study_name(planner: Planner, cell: Cell) -> str:
    """Digest of all that can change the objective of a cell or the range of its search."""
    sweep = planner.sweep
    space = dict(cell.space)
    experiment = planner.experiment(Point(cell))
    return digest(
        [experiment, space, sweep.seeds, sweep.search_seed, sweep.objective, sweep.scheduler]
    )


def open_study(planner: Planner, cell: Cell, studies: Path) -> optuna.Study:
    """The study of a cell, with its first trial queued at the values that the sweep file has.

    Trials that a killed run left open are closed as failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = study_name(planner, cell)
    studies.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(_journal(studies, name))))
    study = optuna.create_study(
        study_name=name, storage=storage, direction="maximize", load_if_exists=True
    )
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state is TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    # A resumed sampler must not repeat the random start of the first one.
    seed = int(digest([name, planner.sweep.search_seed, len(trials)])[:8], 16) % 2**31
    study.sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=min(10, max(3, cell.num_trials // 2)), constant_liar=True
    )
    if not trials:
        study.enqueue_trial(_file_values(planner, cell))
    return study


def _file_values(planner: Planner, cell: Cell) -> dict[str, Any]:
    """The searched fields as the sweep file sets them, where they lie inside the space."""
    owners = {"loss": cell.loss, "method": cell.method, "student": planner.sweep.student}
    values: dict[str, Any] = {}
    for path, distribution in cell.space:
        prefix, field = split_path(path)
        value = getattr(owners[prefix], field)
        bounds = distribution.uniform or distribution.log_uniform or distribution.integer
        inside = value in distribution.choice if distribution.choice else False
        if bounds and value is not None:
            inside = bounds[0] <= value <= bounds[1]
        if inside:
            values[path] = value
    return values


def _journal(studies: Path, name: str) -> Path:
    return studies / f"{name}.journal"
