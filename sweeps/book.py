"""The driver's book of a sweep: every point that was handed out, and how it stands.

`TrialBook` makes the Tune config of a point (`configure`), follows Tune's reports (`Follow`, a Tune
callback), and gives lines to the live view and `TrialResult`s to the results.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from sweeps.plan import Planner, Point
from sweeps.progress import TrialLine, TrialStatus
from sweeps.results import ROLES, SeedKeys, TrialResult
from sweeps.trial import OBJECTIVE
from w2s.experiment import Roles


@dataclass(slots=True)
class Entry:
    """One point and how it stands."""

    point: Point
    """The point."""
    roles: dict[int, Roles]
    """Its evaluations by seed."""
    status: TrialStatus = "waiting"
    """How it stands; `stopped` by a scheduler."""
    num_seeds: int = 0
    """Seeds done."""
    report: dict[str, Any] = field(default_factory=dict)
    """Last report: the objective, and test accuracies of the last seed by role."""
    cause: str = ""
    """Why it failed."""
    started: float = 0.0
    """Unix time in seconds."""
    finished: float = 0.0
    """Unix time in seconds."""


class TrialBook:
    """Points by trial id, in the order in which they were handed out."""

    def __init__(self, planner: Planner) -> None:
        """An empty book."""
        self._planner = planner
        self._lock = threading.Lock()
        self.entries: dict[str, Entry] = {}

    def add(self, point: Point) -> Entry:
        """Write a point down; a point that is there already is returned as it stands."""
        with self._lock:
            if point.id not in self.entries:
                self.entries[point.id] = Entry(
                    point, self._planner.roles(point), started=time.time()
                )
            return self.entries[point.id]

    def config(self, entry: Entry) -> dict[str, Any]:
        """The Tune config of a point: names for people, keys for the trial."""
        sweep = self._planner.sweep
        return {
            "trial": entry.point.id,
            "name": self.name(entry),
            **entry.point.values,
            "objective": sweep.objective,
            "one_by_one": sweep.scheduler != "none",
            "seeds": [
                {
                    "seed": seed,
                    "members": [each.key for each in (*roles.members, *roles.arms.values())],
                    "analyses": [each.key for each in roles.oversight],
                    "roles": {
                        "floor": roles.floor.key,
                        "supervisor": roles.supervisor.key,
                        "student": roles.student.key,
                        "ceiling": roles.ceiling.key,
                    },
                }
                for seed, roles in entry.roles.items()
            ],
        }

    def name(self, entry: Entry) -> str:
        """Short name of a trial: pair, method, loss and searched values."""
        point = entry.point
        values = ", ".join(
            f"{path.rpartition('.')[2]} {_short(value)}" for path, value in point.values.items()
        )
        task = (
            f"{self._planner.task_label(point.cell.task_index)} "
            if len(self._planner.sweep.tasks) > 1
            else ""
        )
        return (
            f"{task}{point.cell.weak}>{point.cell.strong} {point.method.label} {loss_label(point)}"
            + (f" ({values})" if values else "")
        )

    def note(self, trial: str, report: dict[str, Any]) -> None:
        """Take a report of a running trial down."""
        with self._lock:
            entry = self.entries[trial]
            entry.status = "running"
            entry.num_seeds = report["num_seeds"]
            if OBJECTIVE in report:
                entry.report = report
            if "failed" in report:
                entry.status, entry.cause = "failed", report["failed"]

    def end(self, trial: str, cause: str = "") -> None:
        """A trial ended: done, stopped between seeds, or failed."""
        with self._lock:
            entry = self.entries[trial]
            entry.finished = time.time()
            if cause:
                entry.status, entry.cause = "failed", cause
            elif entry.status != "failed":
                entry.status = "done" if entry.num_seeds == len(entry.roles) else "stopped"

    def lines(self) -> list[TrialLine]:
        """Every point as the live view shows it, in the order in which they were handed out."""
        with self._lock:
            return [self._line(entry) for entry in self.entries.values()]

    def _line(self, entry: Entry) -> TrialLine:
        scores = {role: entry.report.get(role) for role in ROLES}
        return TrialLine(
            name=self.name(entry),
            status=entry.status,
            seeds_done=entry.num_seeds,
            num_seeds=len(entry.roles),
            objective=entry.report.get(OBJECTIVE),
            cause=entry.cause,
            **scores,
        )

    def results(self) -> tuple[TrialResult, ...]:
        """Every point as the report takes it, in the order of the sweep file."""
        order = {block.name: index for index, block in enumerate(self._planner.sweep.blocks)}
        entries = sorted(self.entries.values(), key=lambda entry: order[entry.point.cell.block])
        return tuple(self._result(entry) for entry in entries)

    def result(self, trial: str) -> TrialResult:
        """One point as the report takes it."""
        return self._result(self.entries[trial])

    def _result(self, entry: Entry) -> TrialResult:
        point = entry.point
        finished = list(entry.roles.items())[: entry.num_seeds]
        status = entry.status if entry.status in ("done", "failed", "stopped") else "failed"
        return TrialResult(
            trial_id=point.id,
            block=point.cell.block,
            task=self._planner.task_label(point.cell.task_index),
            weak=point.cell.weak,
            strong=point.cell.strong,
            method=point.method.label,
            method_kind=point.method.kind,
            loss=loss_label(point),
            hyperparameters=dict(point.values),
            searched=bool(point.cell.num_trials),
            status=status,
            cause=entry.cause or ("" if status == entry.status else "the run was interrupted"),
            objective=entry.report.get(OBJECTIVE),
            keys=tuple(
                SeedKeys(
                    seed=seed,
                    floor=roles.floor.key,
                    supervisor=roles.supervisor.key,
                    student=roles.student.key,
                    ceiling=roles.ceiling.key,
                    members=tuple(member.key for member in roles.members),
                    arms={name: arm.key for name, arm in roles.arms.items()},
                    oversight=tuple(each.key for each in roles.oversight),
                )
                for seed, roles in finished
            ),
        )


def loss_label(point: Point) -> str:
    """Kind of the loss, and its fields that are neither at their default nor searched."""
    loss = point.cell.loss
    searched = {path.removeprefix("loss.") for path in point.values if path.startswith("loss.")}
    changed = [
        f"{name}={_short(getattr(loss, name))}"
        for name, field in type(loss).model_fields.items()
        if name != "kind" and name not in searched and getattr(loss, name) != field.default
    ]
    return f"{loss.kind}({', '.join(changed)})" if changed else loss.kind


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
