"""The log of a sweep from what its store holds: for a new tracking server, or after a loss.

`entries` gives what a run would have logged: the sweep's run, one for each trial that ended, one
for each stage whose artifact is there, with its curve, and the folders of results and report. What
MLflow has already stays as it is. Only the runs of failed attempts are not in the store.
"""

from collections.abc import Iterator
from pathlib import Path

from sweeps import report
from sweeps.driver import Session
from sweeps.events import StageEvent
from sweeps.plan import Plan, Point
from sweeps.results import SweepResults
from sweeps.runs import Entry, FolderEntry, stage_entry, sweep_entry
from sweeps.search import ended_points
from sweeps.tracking import REPORT_PATH, RESULTS_PATH
from w2s.errors import UserError
from w2s.stages.base import Stage


def entries(session: Session) -> Iterator[Entry]:
    """All that MLflow should hold of a sweep; reads the store as it goes.

    Args:
        session: of the sweep; its book is filled and its summary is that of the run that finished.
    """
    points = [
        point
        for cell in session.planner.cells()
        for point in ended_points(session.planner, cell, session.studies)
    ]
    roots = _roots(session, points)
    plan = Plan(roots)
    present = session.store.present(plan.stages.values())
    kept = _kept(session)
    if kept is not None:
        session.summary = kept.summary
    trials = _fill_book(session, points, present, kept)
    yield sweep_entry(session.summary, fingerprints=session.fingerprints)
    for stage in plan.stages.values():
        if stage.key in present:
            record = session.store.record(stage)
            event = StageEvent(
                0, "done", stage.key, stage.name, stage.kind, record.finished, record
            )
            if (entry := stage_entry(session.summary, event)) is not None:
                yield entry
    for trial in trials:
        yield session.trial_entry(trial)
    if kept is None:
        # It never came to its end, and no process is at it.
        yield sweep_entry(session.summary, fingerprints=session.fingerprints, status="KILLED")
        return
    folder = Path(session.runtime.report_dir) / session.sweep.name
    if not folder.is_dir():
        report.of_results(kept).write(folder)
    for source, path in ((session.results_dir, RESULTS_PATH), (folder, REPORT_PATH)):
        yield FolderEntry(
            experiment=session.summary.name,
            sweep_key=session.summary.sweep_key,
            sweep_started=session.summary.started,
            folder=str(source.absolute()),
            artifact_path=path,
        )
    yield session.end_entry()


def _roots(session: Session, points: list[Point]) -> list[Stage]:
    return [
        root
        for point in points
        for roles in session.book.add(point).roles.values()
        for root in roles
    ]


def _kept(session: Session) -> SweepResults | None:
    """The results of the last run of this very sweep; None: it never came to its end."""
    try:
        results = SweepResults.load(session.results_dir)
    except UserError:
        return None
    return results if results.summary.sweep_key == session.summary.sweep_key else None


def _fill_book(
    session: Session, points: list[Point], present: set[str], kept: SweepResults | None
) -> list[str]:
    """Write down how each point stands; ids of those that ended."""
    results = {trial.trial_id: trial for trial in kept.trials} if kept else {}
    ended = []
    for point in points:
        entry = session.book.entries[point.id]
        entry.started, entry.finished = session.summary.started, session.summary.finished
        done = [all(root.key in present for root in roles) for roles in entry.roles.values()]
        entry.num_seeds = done.index(False) if False in done else len(done)
        result = results.get(point.id)
        if result is not None:
            entry.status, entry.cause = result.status, result.cause
            entry.num_seeds = min(entry.num_seeds, len(result.keys))
        elif entry.num_seeds == len(entry.roles):
            entry.status = "done"
        else:
            continue
        ended.append(point.id)
    return ended
