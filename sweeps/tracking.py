"""The only writer to MLflow: in the background, and again later if the server was away.

`Tracker` queues the entries of `sweeps.runs` for one thread. Writing one is an upsert: the run is
found by its `identity` within the sweep or made, and an entry whose content is there already
changes nothing. So a sweep that runs again, or a log that is replayed, never makes a second run
and never trips over MLflow's write-once parameters.

The journal holds every entry that is not yet in MLflow, so a crash or an unreachable server loses
nothing: the next `Tracker` with the same journal begins with it. Nothing here fails a sweep.
"""

import logging
import os
import queue
import sqlite3
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from sweeps.results import SweepSummary
from sweeps.runs import ENTRY, TRIALS_VIEW, Entry, FolderEntry, RunEntry
from sweeps.writer import Writer, prepare_environment, sqlite_path
from w2s.errors import UserError

logger = logging.getLogger(__name__)

RESULTS_PATH = "results"
"""Artifact folder of `SweepResults` on the parent run."""
REPORT_PATH = "report"
"""Artifact folder of the report on the parent run."""

LOCAL_UI = "http://127.0.0.1:5000"
"""Where `w2s ui` serves, unless it is told otherwise."""
CONNECT_TIMEOUT_S = 5.0
ATTEMPTS = 3
"""Writes of one entry that may fail while the server answers, before it is set aside."""
MAX_WAIT_S = 30.0
"""Longest pause between attempts while the server does not answer."""


def check_reachable(uri: str) -> None:
    """Make sure that runs can be written, before any compute and without importing MLflow.

    Args:
        uri: `sqlite:///path` or `http(s)://host:port`; what other databases answer is found out
            later.

    Raises:
        UserError: the file cannot be written or is no SQLite file, or no server answers within 5 s.
    """
    scheme = urllib.parse.urlsplit(uri).scheme
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in ("http", "https"):
        _check_server(uri)
    elif scheme in ("", "file"):
        raise UserError(
            f"tracking URI {uri!r} is a folder, which MLflow no longer writes to; "
            "use sqlite:///mlflow.db or the URL of a tracking server"
        )


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"tracking database {path}: no folder {folder}; make it, or name another")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(
            f"tracking database {path} cannot be written; change its permissions, or name another "
            "with tracking_uri (--set runtime.tracking_uri=sqlite:///PATH)"
        )
    if path.exists() and path.stat().st_size:
        try:
            with sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True) as db:
                db.execute("select name from sqlite_master limit 1")
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"tracking database {path} is no SQLite database ({error}); name another file"
            ) from error


def _check_server(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECT_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):  # It answers; MLflow's client brings the credentials.
            return
        found = f"answers with HTTP {error.code}"
    except (OSError, ValueError) as error:
        found = (
            f"does not answer within {CONNECT_TIMEOUT_S:.0f} s ({getattr(error, 'reason', error)})"
        )
    raise UserError(
        f"tracking server {uri} {found}; start it (mlflow server), correct runtime.tracking_uri, "
        "or use a file: sqlite:///mlflow.db"
    )


class Tracker:
    """Writes entries in the background; for one process, the driver.

    Use as a context manager, or call `close`.
    """

    def __init__(self, uri: str, journal: Path) -> None:
        """Start the writer, which first replays what an earlier one left.

        Args:
            uri: tracking URI.
            journal: file of entries that are not yet in MLflow; gone when all are.
        """
        self._uri = uri
        self._journal = journal
        self._queue: queue.Queue[Entry | None] = queue.Queue()
        self._closing = threading.Event()
        self._unwritten: deque[Entry] = deque()
        self._problems: list[str] = []
        journal.parent.mkdir(parents=True, exist_ok=True)
        for entry in _read_journal(journal):
            self._unwritten.append(entry)
            self._queue.put(entry)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """The tracker itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is queued."""
        self.close()

    def log(self, entry: RunEntry | None) -> None:
        """Queue a run; returns at once. None is ignored."""
        if entry is not None:
            self._put(entry)

    def log_folder(self, summary: SweepSummary, folder: Path, artifact_path: str) -> None:
        """Queue the files of a local folder, which must stay until `close`, for the parent run."""
        self._put(
            FolderEntry(
                experiment=summary.name,
                sweep_key=summary.sweep_key,
                folder=str(folder.absolute()),
                artifact_path=artifact_path,
            )
        )

    def settle(self, timeout_s: float = 20.0) -> None:
        """Wait until what is queued is written, or the time is over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            with self._lock:
                if not self._unwritten:
                    return
            time.sleep(0.1)

    def close(self, timeout_s: float = 60.0) -> list[str]:
        """Write what is queued, then stop.

        Args:
            timeout_s: longest wait; what is unwritten then stays in the journal.

        Returns:
            One sentence per problem; empty when everything is in MLflow.
        """
        self._queue.put(None)
        self._closing.set()
        self._thread.join(timeout_s)
        with self._lock:
            if self._unwritten:
                self._journal.write_bytes(b"".join(map(_line, self._unwritten)))
                self._problems.append(
                    f"{len(self._unwritten)} entries are not in MLflow ({self._uri}); "
                    f"they are kept in {self._journal} and written by the next run"
                )
            else:
                self._journal.unlink(missing_ok=True)
            return list(dict.fromkeys(self._problems))

    def _put(self, entry: Entry) -> None:
        with self._lock:
            self._unwritten.append(entry)
            try:
                with self._journal.open("ab") as file:
                    file.write(_line(entry))
            except OSError as error:
                self._problem(f"the tracking journal {self._journal} cannot be written: {error}")
            self._queue.put(entry)

    def _problem(self, sentence: str) -> None:
        self._problems.append(sentence)
        logger.warning(sentence)

    def _work(self) -> None:
        writer = Writer(self._uri)
        while (entry := self._queue.get()) is not None:
            if not self._write(writer, entry):
                return
            with self._lock:
                self._unwritten.popleft()

    def _write(self, writer: "Writer", entry: Entry) -> bool:
        """Whether to go on: False once the tracker closes while the server is away."""
        failures, pause_s = 0, 1.0
        while True:
            try:
                writer.write(entry)
                return True
            except Exception as error:
                if writer.answers():
                    failures += 1
                    if failures == ATTEMPTS:
                        self._problem(f"MLflow refuses {_title(entry)}: {_one_line(error)}")
                        return True
                elif self._closing.is_set():
                    return False
                elif pause_s == 1.0:
                    logger.warning(
                        "MLflow (%s) does not answer; the log is kept and written later: %s",
                        self._uri,
                        _one_line(error),
                    )
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, MAX_WAIT_S)


def _read_journal(path: Path) -> list[Entry]:
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().splitlines():
        try:
            entries.append(ENTRY.validate_json(line))
        except ValidationError:  # The last line of a process that was killed.
            logger.warning("a damaged line of the tracking journal %s is left out", path)
    return entries


def _line(entry: Entry) -> bytes:
    return ENTRY.dump_json(entry) + b"\n"


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

    address = uri.rstrip("/") if uri.startswith("http") else LOCAL_UI
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


def log_report(uri: str, run_id: str, folder: Path) -> None:
    """Attach the report's files to a sweep's parent run, at once."""
    prepare_environment()
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).log_artifacts(run_id, str(folder), REPORT_PATH)
