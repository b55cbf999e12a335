"""The only writer to MLflow: in the background, and again later if the server was away.

`Tracker` queues the entries of `sweeps.runs` for one thread. Writing one is an upsert: the run is
found by its `identity` within the sweep or made, and an entry whose content is there already
changes nothing. So a sweep that runs again, or a log that is replayed, never makes a second run
and never trips over MLflow's write-once parameters.

Every entry is in a journal until it is in MLflow, so a crash or an unreachable server loses
nothing: the next `Tracker` of the sweep, or `w2s sync`, begins with it. Nothing here fails a sweep
or lets it wait.
"""

import contextlib
import logging
import tempfile
import threading
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sweeps.journal import Journal, WriterBusy, WriterLock, take_over
from sweeps.reachable import check_reachable
from sweeps.results import SweepSummary
from sweeps.runs import TRIALS_VIEW, Entry, FolderEntry, RunEntry
from sweeps.writer import Writer, absolute, prepare_environment
from w2s.errors import UserError
from w2s.redaction import redacted

logger = logging.getLogger(__name__)

RESULTS_PATH = "results"
"""Artifact folder of `SweepResults` on the parent run."""
REPORT_PATH = "report"
"""Artifact folder of the report on the parent run."""

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `w2s ui` serves, unless it is told otherwise."""
ATTEMPTS = 3
"""Writes of one entry that may fail, though the server answers, while the tracker closes."""
FIRST_WAIT_S = 0.5
"""Pause after a first failure; doubled after each further one."""
MAX_WAIT_S = 30.0
"""Longest pause between attempts."""


class Tracker:
    """Writes entries in the background; for one process, the driver.

    Use as a context manager, or call `close`.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        """Start the writer, which first writes what a process that is gone has left.

        Args:
            uri: tracking URI.
            folder: of the sweep's journals, which hold what is not yet in MLflow.
        """
        self._uri = uri
        self._journal = Journal(folder, absolute(redacted(uri)))
        self._turn = WriterLock(folder)
        self._changed = threading.Condition()
        self._pending: dict[str, _Pending] = {}
        self._problems: list[str] = []
        self._unkept = 0
        self._wait_until = 0.0
        self._pause_s = FIRST_WAIT_S
        self._away = False
        self._closing = threading.Event()
        self._deadline = float("inf")
        for entry in take_over(self._journal):
            self._pending[_identity(entry)] = _Pending(entry)
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """The tracker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is queued."""
        self.close()

    def log(self, entry: Entry | None) -> None:
        """Queue an entry; returns at once. It stands for earlier ones of its run. None: nothing."""
        if entry is None:
            return
        with self._changed:
            self._pending[_identity(entry)] = _Pending(entry)
            try:
                self._journal.append(entry)
            except OSError as error:
                self._unkept += 1
                if self._unkept == 1:
                    logger.warning(
                        "the tracking journal in %s cannot be written (%s); what MLflow does not "
                        "get in this run is lost there, and `w2s sync FILE` restores it",
                        self._journal.folder,
                        error,
                    )
            self._changed.notify()

    def log_folder(self, summary: SweepSummary, folder: Path, artifact_path: str) -> None:
        """Queue the files of a local folder, which must stay until `close`, for the parent run."""
        self.log(
            FolderEntry(
                experiment=summary.name,
                sweep_key=summary.sweep_key,
                sweep_started=summary.started,
                folder=str(folder.absolute()),
                artifact_path=artifact_path,
            )
        )

    def settle(self, timeout_s: float = 20.0) -> bool:
        """Wait until what is queued is written, MLflow turns out to be away, or the time is over.

        Returns:
            Whether everything is written.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._pending or self._away, timeout_s)
            return not self._pending

    @property
    def away(self) -> bool:
        """Whether MLflow did not answer when it was last asked."""
        return self._away

    @property
    def num_pending(self) -> int:
        """Entries that are not yet in MLflow."""
        with self._changed:
            return len(self._pending)

    def close(self, timeout_s: float = 60.0) -> list[str]:
        """Write what is queued, then stop.

        Args:
            timeout_s: longest wait; what is unwritten then stays in the journal.

        Returns:
            One sentence per problem; empty when everything is in MLflow.
        """
        with self._changed:
            self._closing.set()
            self._deadline = time.monotonic() + timeout_s
            self._wait_until = 0.0
            for pending in self._pending.values():
                pending.failures = min(pending.failures, ATTEMPTS - 1)
                pending.not_before = 0.0
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            left = list(self._pending.values())
            for pending in left:
                if pending.failures >= ATTEMPTS:
                    self._problems.append(
                        f"MLflow refuses {_title(pending.entry)}: {pending.error}"
                    )
            kept = f"; kept in {self._journal.folder} and written by the next run or `w2s sync`"
            try:
                self._journal.close(pending.entry for pending in left)
            except OSError as error:
                kept = f", and cannot be kept ({error}); `w2s sync FILE` restores them"
            if left:
                self._problems.append(
                    f"{len(left)} entries are not in MLflow ({redacted(self._uri)}){kept}"
                )
            return list(dict.fromkeys(self._problems))

    def _work(self) -> None:
        writer = Writer(self._uri)
        unsure: Entry | None = None
        while (pending := self._next()) is not None:
            try:
                with self._turn.turn(self._out_of_time) as others_wrote:
                    if others_wrote:
                        writer.forget()
                    writer.write(pending.entry)
            except WriterBusy:
                return
            except Exception as error:
                # What was asked may have been carried out all the same.
                unsure = pending.entry
                writer.forget()
                self._failed(pending, redacted(_one_line(error)), writer.answers())
            else:
                self._written(pending)
        if unsure is not None and not self._away:
            with contextlib.suppress(Exception), self._turn.turn(self._out_of_time):
                writer.merge(unsure)

    def _out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    def _next(self) -> "_Pending | None":
        """The next entry that is due; waits for one. None: closed, and no more can be written."""
        with self._changed:
            while True:
                now = time.monotonic()
                closing = self._closing.is_set()
                open_entries = [
                    pending
                    for pending in self._pending.values()
                    if not closing or pending.failures < ATTEMPTS
                ]
                if closing and (not open_entries or (self._away and self._wait_until > 0)):
                    return None
                due = [max(each.not_before, self._wait_until) for each in open_entries]
                for pending, when in zip(open_entries, due, strict=True):
                    if when <= now:
                        return pending
                self._changed.wait(min(due) - now if due else None)

    def _written(self, pending: "_Pending") -> None:
        with self._changed:
            key = _identity(pending.entry)
            if self._pending.get(key) is pending:  # Else there is a newer entry of this run.
                del self._pending[key]
            self._away, self._wait_until, self._pause_s = False, 0.0, FIRST_WAIT_S
            if not self._pending:
                with contextlib.suppress(OSError):
                    self._journal.clear()
            self._changed.notify_all()

    def _failed(self, pending: "_Pending", error: str, answers: bool) -> None:
        with self._changed:
            now = time.monotonic()
            if answers:
                # The others go first; nothing is given up, for a lock goes away.
                self._away = False
                pending.failures += 1
                pending.error = error
                pause_s = min(FIRST_WAIT_S * 2**pending.failures, MAX_WAIT_S)
                pending.not_before = now + (FIRST_WAIT_S if self._closing.is_set() else pause_s)
            else:
                if not self._away:
                    logger.warning(
                        "MLflow (%s) does not answer; the log is kept and written later: %s",
                        redacted(self._uri),
                        error,
                    )
                self._away = True
                self._wait_until = now + self._pause_s
                self._pause_s = min(2 * self._pause_s, MAX_WAIT_S)
            self._changed.notify_all()


@dataclass(slots=True)
class _Pending:
    """An entry that is not yet in MLflow."""

    entry: Entry
    failures: int = 0
    not_before: float = 0.0
    error: str = ""


def _identity(entry: Entry) -> str:
    """What an entry is the whole state of: a later one replaces it."""
    part = entry.identity if isinstance(entry, RunEntry) else f"folder:{entry.artifact_path}"
    return f"{entry.sweep_key} {part}"


def _title(entry: Entry) -> str:
    return f"run {entry.name!r}" if isinstance(entry, RunEntry) else f"folder {entry.folder}"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def results_folder(uri: str, sweep: str) -> tuple[Path, str]:
    """The results of the newest finished run of a sweep, on this machine.

    Args:
        uri: tracking URI.
        sweep: name of the sweep, or its key or the parent's run id where a name has several runs.

    Returns:
        Folder for `SweepResults.load`, and the id of the parent run.

    Raises:
        UserError: no such sweep, or none that left results; the message lists those there are.
    """
    check_reachable(uri)
    prepare_environment()
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=uri)
    experiments = client.search_experiments(view_type=ViewType.ACTIVE_ONLY)
    parents = client.search_runs(
        [experiment.experiment_id for experiment in experiments],
        "tags.`w2s.identity` = 'sweep'",
        order_by=["attributes.start_time DESC"],
        max_results=1000,
    )
    for run in parents:
        names = (run.data.tags["w2s.sweep"], run.data.tags["w2s.sweep_key"], run.info.run_id)
        if sweep in names and client.list_artifacts(run.info.run_id, RESULTS_PATH):
            target = tempfile.mkdtemp(prefix="w2s-results-")
            return Path(
                client.download_artifacts(run.info.run_id, RESULTS_PATH, target)
            ), run.info.run_id
    found = sorted({run.data.tags["w2s.sweep"] for run in parents})
    if sweep in found:
        raise UserError(f"sweep {sweep!r} has left no results in {uri} yet; run it to its end")
    raise UserError(f"no sweep {sweep!r} in {uri}; found: {', '.join(found) or 'none'}")


def trial_pages(uri: str, address: str) -> dict[str, str]:
    """Page of the MLflow UI that lists a sweep's trials with their scores, by the sweep's name.

    Args:
        uri: tracking URI.
        address: where the UI is served, such as `http://127.0.0.1:5000`.
    """
    prepare_environment()
    from mlflow import MlflowClient

    return {
        experiment.name: f"{address.rstrip('/')}/#/experiments/{experiment.experiment_id}/runs"
        f"?viewStateShareKey={TRIALS_VIEW}"
        for experiment in MlflowClient(tracking_uri=uri).search_experiments()
        if f"mlflow.sharedViewState.{TRIALS_VIEW}" in experiment.tags
    }


def run_pages(uri: str, summary: SweepSummary) -> dict[str, str]:
    """Page of the MLflow UI of each trial's run, by the id of the trial.

    The UI is that of the tracking server, or of `w2s ui` for a file; empty if MLflow is away.
    """
    prepare_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    address = _without_user(uri).rstrip("/") if uri.startswith("http") else LOCAL_UI
    client = MlflowClient(tracking_uri=uri)
    try:
        experiment = client.get_experiment_by_name(summary.name)
        if experiment is None:
            return {}
        runs = []
        token = None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                f"tags.`w2s.sweep_key` = '{summary.sweep_key}' AND tags.`w2s.trial` LIKE '%'",
                max_results=1000,
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                break
    except (MlflowException, OSError) as error:
        logger.warning("the report has no links to runs: %s", _one_line(error))
        return {}
    return {
        run.data.tags["w2s.trial"]: f"{address}/#/experiments/{experiment.experiment_id}/runs/"
        f"{run.info.run_id}"
        for run in runs
    }


def _without_user(uri: str) -> str:
    """The URL without user and password: it goes into pages that people pass on."""
    parts = urllib.parse.urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def log_report(uri: str, run_id: str, folder: Path) -> None:
    """Attach the report's files to a sweep's parent run, at once."""
    prepare_environment()
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).log_artifacts(run_id, str(folder), REPORT_PATH)
