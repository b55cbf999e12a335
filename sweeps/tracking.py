"""The only writer to MLflow: in the background, and again later if the server was away.

`Tracker` queues the entries of `sweeps.runs` for one thread. Writing one is an upsert: the run is
found by its `identity` within the sweep or made, and an entry whose content is there already
changes nothing. So a sweep that runs again, or a log that is replayed, never makes a second run
and never trips over MLflow's write-once parameters.

The journal holds every entry that is not yet in MLflow, so a crash or an unreachable server loses
nothing: the next `Tracker` with the same journal begins with it. Nothing here fails a sweep.
"""

import json
import logging
import os
import queue
import sqlite3
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from sweeps.results import SweepSummary
from sweeps.runs import ENTRY, EXPERIMENT_TAGS, TRIALS_VIEW, DataSet, Entry, FolderEntry, RunEntry
from w2s.errors import UserError
from w2s.spec import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

RESULTS_PATH = "results"
"""Artifact folder of `SweepResults` on the parent run."""
REPORT_PATH = "report"
"""Artifact folder of the report on the parent run."""

CONNECT_TIMEOUT_S = 5.0
ATTEMPTS = 3
"""Writes of one entry that may fail while the server answers, before it is set aside."""
MAX_WAIT_S = 30.0
"""Longest pause between attempts while the server does not answer."""
PARAMETER_LENGTH = 500
"""Characters of a parameter's value; the rest is in the resolved spec."""
TAG_LENGTH = 5000
"""Characters of a tag's value."""
OWN_TAGS = ("w2s.sweep_key", "w2s.identity", "w2s.content")
"""Tags that the writer itself needs."""
BATCH = 100
"""Parameters or tags of one call; MLflow's limit."""
METRIC_BATCH = 1000
"""Metrics of one call; MLflow's limit."""


def prepare_environment() -> None:
    """Keep MLflow from phoning home, from inheriting a run, and from waiting minutes for a server.

    Called before the first import of MLflow, and before its UI is started, which then starts no
    workers for jobs of its own. What the user set stays, but for `MLFLOW_RUN_ID`.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "15"),
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
    ):
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)


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


def sqlite_path(uri: str) -> Path:
    """File of a `sqlite:///` URI, absolute."""
    return Path(uri.removeprefix("sqlite:///")).absolute()


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where an experiment's artifacts go: beside a SQLite file; None leaves it to the server."""
    if not uri.startswith("sqlite:"):
        return None
    return (sqlite_path(uri).parent / "mlartifacts" / experiment).as_uri()


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
        writer = _Writer(self._uri)
        while (entry := self._queue.get()) is not None:
            if not self._write(writer, entry):
                return
            with self._lock:
                self._unwritten.popleft()

    def _write(self, writer: "_Writer", entry: Entry) -> bool:
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


class _Writer:
    """Applies entries; knows which runs exist."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._made_client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, dict[str, Run]] = {}

    @property
    def _client(self) -> "MlflowClient":
        if self._made_client is None:
            prepare_environment()
            from mlflow import MlflowClient

            self._made_client = MlflowClient(tracking_uri=self._uri)
        return self._made_client

    def answers(self) -> bool:
        """Whether the server does anything at all."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def write(self, entry: Entry) -> None:
        if isinstance(entry, RunEntry):
            self._upsert(entry)
            return
        parent = self._known(entry)["sweep"]
        if Path(entry.folder).is_dir():  # Gone when a journal is replayed after a clean-up.
            self._client.log_artifacts(parent.info.run_id, entry.folder, entry.artifact_path)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                location = artifact_location(self._uri, name)
                self._experiments[name] = self._client.create_experiment(
                    name, location, EXPERIMENT_TAGS
                )
            else:
                if found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _known(self, entry: Entry) -> "dict[str, Run]":
        """Runs of the entry's sweep by identity, read once."""
        known = self._runs.get(entry.sweep_key)
        if known is None:
            known = {}
            token = None
            while True:
                page = self._client.search_runs(
                    [self._experiment(entry.experiment)],
                    f"tags.`w2s.sweep_key` = '{entry.sweep_key}'",
                    max_results=1000,
                    page_token=token,
                )
                known.update({run.data.tags["w2s.identity"]: run for run in page})
                token = page.token
                if not token:
                    break
            self._runs[entry.sweep_key] = known
        return known

    def _upsert(self, entry: RunEntry) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # Times are not content: a trial that is answered from the store ends anew in every run.
        content = digest(entry.model_copy(update={"started": 0.0, "finished": 0.0}))
        known = self._known(entry)
        run = known.get(entry.identity)
        if run is not None and run.data.tags.get("w2s.content") == content:
            return
        if run is None:
            tags = {
                "w2s.sweep_key": entry.sweep_key,
                "w2s.identity": entry.identity,
                "mlflow.source.type": "LOCAL",
                "mlflow.user": os.environ.get("USER", ""),
            }
            if entry.identity != "sweep":
                tags["mlflow.parentRunId"] = known["sweep"].info.run_id
            run = self._client.create_run(
                self._experiment(entry.experiment),
                start_time=_milliseconds(entry.started),
                tags=tags,
                run_name=entry.name,
            )
            known[entry.identity] = run
        run_id = run.info.run_id

        end_ms = _milliseconds(entry.finished or entry.started)
        metrics = [
            Metric(_legal(m.name), m.value, m.time_ms or end_ms, m.step) for m in entry.metrics
        ]
        params = [
            Param(_legal(name), value[:PARAMETER_LENGTH])
            for name, value in entry.params.items()
            if _legal(name) not in run.data.params
        ]
        for start in range(0, len(params), BATCH):
            self._client.log_batch(run_id, params=params[start : start + BATCH])
        for start in range(0, len(metrics), METRIC_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRIC_BATCH])
        self._log_inputs(run_id, run, entry.inputs)
        for name in run.data.tags.keys() - entry.tags.keys() - set(OWN_TAGS):
            if name.startswith("w2s."):  # Such as the cause of a failure that is mended.
                self._client.delete_tag(run_id, name)
        tags = [RunTag(_legal(name), value[:TAG_LENGTH]) for name, value in entry.tags.items()]
        # The content tag goes last: an entry cut off half-way is written again.
        tags = [*tags, RunTag("w2s.content", content)]
        if entry.status == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, entry.status, _milliseconds(entry.finished))
        for start in range(0, len(tags), BATCH):
            self._client.log_batch(run_id, tags=tags[start : start + BATCH])
        known[entry.identity] = self._client.get_run(run_id)

    def _log_inputs(self, run_id: str, run: "Run", inputs: tuple[DataSet, ...]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        logged = {item.dataset.name for item in run.inputs.dataset_inputs} if run.inputs else set()
        new = [
            DatasetInput(
                Dataset(
                    name=data.name,
                    digest=data.digest,
                    source_type="w2s_task",
                    source=json.dumps({"task": data.name}),
                    profile=json.dumps(data.profile),
                ),
                [InputTag("mlflow.data.context", "train, val, test")],
            )
            for data in inputs
            if data.name not in logged
        ]
        if new:
            self._client.log_inputs(run_id, new)


def _legal(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)[:250]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


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


def log_report(uri: str, run_id: str, folder: Path) -> None:
    """Attach the report's files to a sweep's parent run, at once."""
    prepare_environment()
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).log_artifacts(run_id, str(folder), REPORT_PATH)
