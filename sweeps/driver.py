"""The driver: everything that `w2s run` does, from the checks before any compute to the report.

`run_sweep` checks the input, then either *replays* a sweep whose stages are all in the store,
without a cluster, or *runs* it: a broker on Ray, Tune trials around it, events pumped into MLflow
and the live view. Both ways end with the same results, taken from the store.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from serving.backends.base import Backend
from serving.budget import Usage
from serving.errors import BudgetSpent
from sweeps import cluster, report
from sweeps.book import TrialBook
from sweeps.broker import start_broker
from sweeps.client import DriverClient
from sweeps.collect import collect, stage_counts, summarise
from sweeps.config import Sweep
from sweeps.events import StageEvent
from sweeps.live import LiveView
from sweeps.placements import execution
from sweeps.plan import Plan, Planner, Point
from sweeps.progress import ProgressFile
from sweeps.reachable import unreachable
from sweeps.references import References
from sweeps.resources import slots
from sweeps.results import SweepResults, SweepSummary
from sweeps.runs import RunEntry, stage_entry, sweep_entry, trial_entry
from sweeps.runtime import Runtime
from sweeps.scores import TrialScorer
from sweeps.search import SweepSearcher, recorded_points
from sweeps.speakers import cache_folder, checked_backends, spent
from sweeps.store import ArtifactStore
from sweeps.tracking import REPORT_PATH, RESULTS_PATH, Tracker, run_pages
from sweeps.trial import OBJECTIVE
from sweeps.tune import run_trials
from w2s.errors import DamagedArtifact
from w2s.stages.base import Stage
from w2s.stages.evaluate import read_evaluation

log = logging.getLogger(__name__)

POLL_S = 0.5
"""Time between two looks at the broker."""
PUMP_JOIN_S = 30.0
"""Longest wait for the record to catch up when all trials have ended."""
INTERRUPTED_CLOSE_S = 2.0
"""Time that served models have to go away after Ctrl-C; those of a local cluster end with it."""
BUDGET_EXIT_CODE = 3
"""Exit code of a run that a budget has stopped, and nothing else."""
TRACKING_FOLDER = ".tracking"
"""Folder of the journals of what is not yet in MLflow, by sweep."""
INTERRUPTED_LOG_S = 2.0
"""Time that is left for MLflow after Ctrl-C."""


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    summary: SweepSummary
    """The sweep."""
    book: TrialBook
    """Its points."""
    results: SweepResults
    """What the report is made of."""
    report: report.Report
    """The report."""
    report_dir: Path
    """Folder of the report."""
    problems: list[str] = field(default_factory=list)
    """What went wrong beside the points: tracking."""
    spent: dict[str, Usage] = field(default_factory=dict)
    """What the speakers behind a URL have cost in this sweep, over all its runs, by name."""
    budgets: list[str] = field(default_factory=list)
    """What was said where a budget was spent."""
    noticed: list[str] = field(default_factory=list)
    """What was lost on the way and made good."""

    @property
    def exit_code(self) -> int:
        """Of `w2s run`: 0 where every point is done, or was stopped by the scheduler.

        3 where a budget is spent and nothing else went wrong, 1 where points failed otherwise.
        """
        left = [e for e in self.book.entries.values() if e.status not in ("done", "stopped")]
        if left and all(BudgetSpent.__name__ in entry.cause for entry in left):
            return BUDGET_EXIT_CODE
        return int(bool(left))


class Session:
    """A checked sweep with its store, tracker and book."""

    def __init__(self, sweep: Sweep, runtime: Runtime, command: str) -> None:
        """Check everything that can be checked without computing.

        Raises:
            UserError: data, a model, the tracking server or a split is not as it should be.
            StoreError: the store cannot be written.
        """
        self.sweep, self.runtime, self.command = sweep, runtime, command
        self.started = time.time()
        self.store = ArtifactStore(runtime.store)
        self.store.check_writable()
        if away := unreachable(runtime.tracking_uri):
            log.warning("%s; the sweep goes on, `w2s sync` writes its log later", away)
        self.planner = Planner(sweep)
        self.planner.check()
        self.references = References(self.store, sweep.name)
        self.local_dir = self.store.local_dir
        self.studies = studies_dir(self.store)
        self.completions = cache_folder(runtime, self.store)
        self.begin()

    def begin(self) -> None:
        """Nothing has run: an empty book, no events."""
        self.book = TrialBook(self.planner)
        self.scorer = TrialScorer(self.store)
        self.events: list[StageEvent] = []
        self.noticed: list[str] = []

    def tracker(self) -> Tracker:
        """The writer to MLflow."""
        return Tracker(self.runtime.tracking_uri, self.journals)

    @property
    def journals(self) -> Path:
        """Folder of what is not yet in MLflow, beside the studies."""
        return self.local_dir / TRACKING_FOLDER / self.sweep.name

    def log_start(self, tracker: Tracker) -> None:
        """Sum the sweep up and tell MLflow that it runs."""
        self.summary = summarise(self.planner, command=self.command, started=self.started)
        tracker.log(sweep_entry(self.summary, fingerprints=self.fingerprints))

    def log_killed(self, tracker: Tracker) -> None:
        """Tell MLflow that the sweep was ended from outside; what is not written soon waits."""
        ended = self.summary.model_copy(update={"finished": time.time()})
        tracker.log(sweep_entry(ended, fingerprints=self.fingerprints, status="KILLED"))
        tracker.close(timeout_s=INTERRUPTED_LOG_S)

    def trial_entry(self, trial: str) -> RunEntry:
        """The run of a trial that ended; reads its scores from the store."""
        entry = self.book.entries[trial]
        result = self.book.result(trial)
        scores = self.scorer.of(entry)
        return trial_entry(
            self.summary,
            result,
            metrics=scores.metrics,
            by_seed=scores.by_seed,
            notes=scores.notes,
            started=scores.started,
            finished=scores.finished,
        )

    def end_entry(self) -> RunEntry:
        """The run of the sweep when all is over."""
        return sweep_entry(
            self.summary,
            fingerprints=self.fingerprints,
            metrics=self._counts(),
            status="FINISHED",
        )

    @property
    def results_dir(self) -> Path:
        """Folder in which the results are kept; a tracking server that is away gets them later."""
        return self.local_dir / ".results" / self.sweep.name

    def finish(self, tracker: Tracker) -> Outcome:
        """Results from the store, the report, and both into MLflow."""
        self.summary = summarise(
            self.planner,
            command=self.command,
            started=self.started,
            finished=time.time(),
            stages=stage_counts(self.events),
        )
        if all(entry.status in ("done", "stopped") for entry in self.book.entries.values()):
            self.references.replace(self.roots())
        results = collect(
            self.planner,
            self.store,
            self.book,
            self.summary,
            num_transcripts=self.runtime.report_transcripts,
        )
        folder = Path(self.runtime.report_dir) / self.sweep.name
        pages = {}
        # Their page links to the runs of the trials, if these are written by now.
        if results.transcripts.examples and tracker.settle():
            pages = run_pages(self.runtime.tracking_uri, self.summary)
        built = report.of_results(results, run_pages=pages)
        built.write(folder)
        results.save(self.results_dir)
        tracker.log_folder(self.summary, self.results_dir, RESULTS_PATH)
        tracker.log_folder(self.summary, folder, REPORT_PATH)
        tracker.log(self.end_entry())
        problems = tracker.close()
        said = [
            event.cause.partition(": ")[2]
            for event in self.events
            if event.state == "failed" and event.cause.startswith(f"{BudgetSpent.__name__}:")
        ]
        return Outcome(
            self.summary,
            self.book,
            results,
            built,
            folder,
            problems,
            spent=spent(self.planner, self.completions),
            budgets=list(dict.fromkeys(said)),
            noticed=self.noticed,
        )

    def roots(self) -> list[Stage]:
        """The stages that all points of the book await."""
        roles_by_seed = (entry.roles.values() for entry in self.book.entries.values())
        return [root for roles in roles_by_seed for each in roles for root in each]

    def _counts(self) -> dict[str, float]:
        """Trials by end, and stages that ran or were cached."""
        statuses = [entry.status for entry in self.book.entries.values()]
        counts = {f"trials_{status}": float(statuses.count(status)) for status in set(statuses)}
        for state in ("done", "cached", "failed"):
            found = (by_state.get(state, 0) for by_state in self.summary.stages.values())
            counts[f"stages_{state}"] = float(sum(found))
        return counts

    @property
    def fingerprints(self) -> dict[str, str]:
        """Digest of the data of each task, by its label."""
        return {
            self.planner.task_label(index): fingerprint or self.planner.sweep.tasks[index].kind
            for index, fingerprint in enumerate(self.planner.data)
        }


def studies_dir(store: ArtifactStore) -> Path:
    """Folder of the Optuna journals."""
    return store.local_dir / ".studies"


def run_sweep(session: Session, address: str | None = None, plain: bool = False) -> Outcome:
    """Run what is missing, then report.

    Args:
        session: the checked sweep.
        address: Ray cluster to join; None: `RAY_ADDRESS`, else a local one is started.
        plain: lines instead of the live view.
    """
    repaired: set[str] = set()
    while True:
        points = recorded_points(session.planner, session.studies)
        try:
            if points is not None and _complete(session, points):
                return _replay(session, points)
            return _run(session, address, plain)
        except DamagedArtifact as damage:
            if damage.key in repaired:
                raise
            repaired.add(damage.key)
            print(f"{damage.name} ({damage.key}) is damaged: {damage.problem}; it is made again")
            session.store.set_aside(damage.key)
            session.begin()


def _complete(session: Session, points: list[Point]) -> bool:
    """Whether the store has every evaluation of these points."""
    roots = [
        root
        for point in points
        for roles in session.planner.roles(point).values()
        for root in roles
    ]
    return len(session.store.present(roots)) == len({root.key for root in roots})


def _replay(session: Session, points: list[Point]) -> Outcome:
    """Everything is cached: no cluster, no model, only the record."""
    for point in points:
        entry = session.book.add(point)
        scores: list[float] = []
        for roles in entry.roles.values():
            evaluation = read_evaluation(session.store.local(roles.student))
            scores.append(evaluation["val"][session.sweep.objective])
        session.book.note(
            point.id, {"num_seeds": len(scores), OBJECTIVE: sum(scores) / len(scores)}
        )
        session.book.end(point.id)
    session.events = [
        StageEvent(
            index=i,
            state="cached",
            key=stage.key,
            name=stage.name,
            kind=stage.kind,
            time=session.started,
        )
        for i, stage in enumerate(Plan(session.roots()).stages.values())
    ]
    print(
        f"everything is cached: {len(session.events)} stages, {len(points)} points; "
        "no model is touched",
        flush=True,
    )
    with _tracked(session) as tracker:
        session.log_start(tracker)
        for point in points:
            tracker.log(session.trial_entry(point.id))
        return session.finish(tracker)


@contextlib.contextmanager
def _tracked(session: Session) -> Iterator[Tracker]:
    """A tracker that is closed where an artifact turns out damaged: the sweep begins again."""
    tracker = session.tracker()
    try:
        yield tracker
    except DamagedArtifact:
        tracker.close(timeout_s=INTERRUPTED_LOG_S)
        raise


def _run(session: Session, address: str | None, plain: bool) -> Outcome:
    remote = checked_backends(session.planner, session.completions)
    with _tracked(session) as tracker, ThreadPoolExecutor(1) as beside:
        # Counting the weights of models takes seconds of imports, a cluster seconds to start.
        started = beside.submit(session.log_start, tracker)
        try:
            with cluster.connected(address or session.runtime.address) as connection:
                started.result()
                end = partial(_end, session, tracker, connection)
                with cluster.watched(connection, end):
                    _execute(session, tracker, plain, remote)
        except KeyboardInterrupt:
            started.result()
            session.log_killed(tracker)
            raise
        return session.finish(tracker)


def _end(session: Session, tracker: Tracker, connection: cluster.Connection, loss: str) -> None:
    """The cluster is gone: say so and end this process, in which any call to Ray may hang."""
    Console().show_cursor(True)  # the live view had hidden it
    print(
        f"w2s run: the Ray cluster is gone: {loss}; what was finished is kept, the same command "
        "goes on from there",
        file=sys.stderr,
        flush=True,
    )
    with contextlib.suppress(Exception):
        session.log_killed(tracker)
    with contextlib.suppress(Exception):
        cluster.abandon(connection)
    os._exit(1)


def _execute(
    session: Session, tracker: Tracker, plain: bool, remote: Mapping[str, Backend]
) -> None:
    """Broker, live view and trials on the cluster, from start to end."""
    nodes = cluster.node_resources()
    how = execution(session.runtime, session.planner, session.store.root, nodes, remote)
    broker = start_broker(how)
    try:
        with _pump(session, broker, tracker, plain):
            searcher = SweepSearcher(
                session.planner,
                session.studies,
                lambda point: _configure(session, broker, point),
            )
            prefetched = _prefetch(session, searcher, broker)
            # Where everything is asked for, trials tell what has ended, and do not push.
            pushing = 1 if prefetched is not None else 2
            usual = min(16, max(2, pushing * slots(how.shape, nodes)))
            concurrent = session.runtime.max_concurrent_trials or usual
            run_trials(session.sweep, searcher, session.book, broker, concurrent)
            if prefetched is not None:
                broker.release(prefetched)
    except KeyboardInterrupt:
        broker.leave(timeout_s=INTERRUPTED_CLOSE_S)
        raise
    finally:
        session.noticed += broker.noticed()
        broker.leave()


def _configure(session: Session, broker: DriverClient, point: Point) -> dict[str, Any]:
    """Write a point into the book, hand its stages to the broker, and give Tune its config."""
    entry = session.book.add(point)
    roots = [root for roles in entry.roles.values() for root in roles]
    session.references.add(roots)
    broker.register(roots)
    return session.book.config(entry)


def _prefetch(session: Session, searcher: SweepSearcher, broker: DriverClient) -> str | None:
    """Ask for all certain points at once: the broker sees the longest chains from the start.

    Not under a scheduler, which may stop a point before its later seeds are asked for.

    Returns:
        Id of the request, which the pump keeps alive.
    """
    if session.sweep.scheduler != "none":
        return None
    roots = [
        root
        for point in searcher.certain_points()
        for roles in session.planner.roles(point).values()
        for root in roles
    ]
    session.references.add(roots)
    return broker.ask(roots) if roots else None


@contextlib.contextmanager
def _pump(session: Session, broker: DriverClient, tracker: Tracker, plain: bool) -> Iterator[None]:
    """Beside the trials: events and ended trials into MLflow, the live view on the terminal."""
    done = threading.Event()
    logged: set[str] = set()

    def pump_once() -> None:
        for event in broker.events():
            session.events.append(event.without_curve())
            tracker.log(stage_entry(session.summary, event))
            view.note(event)
            progress.note(event)
        for trial, entry in list(session.book.entries.items()):
            if entry.finished and trial not in logged:
                logged.add(trial)
                tracker.log(session.trial_entry(trial))
        if done.is_set() or progress.is_due():
            progress.write(broker.snapshot(), session.book.lines(), has_ended=done.is_set())

    def pump() -> None:
        while not done.wait(POLL_S):
            try:
                pump_once()
            except Exception:
                log.exception("the record of the sweep fell behind; it is completed at the end")

    progress = ProgressFile(session.store, session.sweep.name)
    view = LiveView(broker.snapshot, session.book.lines, title=session.sweep.name, plain=plain)
    thread = threading.Thread(target=pump, name="w2s-pump", daemon=True)
    with view:
        thread.start()
        try:
            yield
        finally:
            done.set()
        # Not reached after Ctrl-C: what is missing then is written by the next run.
        thread.join(timeout=PUMP_JOIN_S)
        pump_once()
