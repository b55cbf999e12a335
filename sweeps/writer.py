"""Entries into MLflow: the one place that calls its client to write.

`Writer` applies an entry of `sweeps.runs` as an upsert, in three requests where the run is new. It
uses `MlflowClient` with explicit run ids; the fluent API keeps global state and is not touched.
"""

import contextlib
import json
import logging
import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.journal import folder_lock
from sweeps.runs import EXPERIMENT_TAGS, DataSet, Entry, RunEntry
from w2s.spec import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run, RunTag

log = logging.getLogger(__name__)

PARAMETER_LENGTH = 500
"""Characters of a parameter's value; the rest is in the resolved spec."""
TAG_LENGTH = 5000
"""Characters of a tag's value."""
OWN_TAGS = ("w2s.sweep_key", "w2s.identity", "w2s.content")
"""Tags that the writer itself needs."""
BATCH = 100
"""Parameters or tags of one request; MLflow's limit."""
METRIC_BATCH = 800
"""Metrics of one request: MLflow takes 1,000 values of all sorts."""


def prepare_environment() -> None:
    """Keep MLflow from phoning home, from inheriting a run, and from waiting minutes for a server.

    Called before the first import of MLflow, and before its UI is started, which then starts no
    workers for jobs of its own. What the user set stays, but for `MLFLOW_RUN_ID`.
    """
    os.environ.pop("MLFLOW_RUN_ID", None)
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        # A request that timed out may have been carried out: only who looks first may repeat it.
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "15"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
    ):
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints tracebacks of what it raises, too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def sqlite_path(uri: str) -> Path:
    """File of a `sqlite:///` URI, absolute."""
    return Path(uri.removeprefix("sqlite:///")).absolute()


def absolute(uri: str) -> str:
    """The URI as it reads from any folder."""
    return f"sqlite:///{sqlite_path(uri)}" if uri.startswith("sqlite:") else uri


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where an experiment's artifacts go: beside a SQLite file; None leaves it to the server."""
    if not uri.startswith("sqlite:"):
        return None
    return (sqlite_path(uri).parent / "mlartifacts" / experiment).as_uri()


@dataclass(slots=True)
class _Logged:
    """What the writer has to know about a run."""

    run_id: str
    status: str
    tags: dict[str, str]
    params: set[str]
    inputs: set[str]

    @property
    def content(self) -> str:
        """Digest of the entry that the run holds; empty before it holds all of it."""
        return self.tags.get("w2s.content", "")


class Writer:
    """Applies entries; knows which runs exist."""

    def __init__(self, uri: str) -> None:
        """Nothing is asked yet.

        Args:
            uri: tracking URI.
        """
        self._uri = uri
        self._made_client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, dict[str, _Logged]] = {}

    @property
    def _client(self) -> "MlflowClient":
        if self._made_client is None:
            prepare_environment()
            from mlflow import MlflowClient

            # Two processes that make the tables of a new file at once break it.
            sqlite = self._uri.startswith("sqlite:")
            with folder_lock(sqlite_path(self._uri).parent) if sqlite else contextlib.nullcontext():
                client = MlflowClient(tracking_uri=self._uri)
                client.search_experiments(max_results=1)
            self._made_client = client
        return self._made_client

    def answers(self) -> bool:
        """Whether the server does anything at all."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def forget(self) -> None:
        """Look again what MLflow has: another process wrote, or a request was lost on the way."""
        self._experiments.clear()
        self._runs.clear()

    def write(self, entry: Entry) -> None:
        """Make MLflow hold the entry; raises what MLflow raises."""
        known = self._known(entry.experiment, entry.sweep_key)
        if isinstance(entry, RunEntry):
            self._upsert(entry, known)
        elif Path(entry.folder).is_dir():  # Gone when a journal is replayed after a clean-up.
            parent = self._parent(entry, known)
            self._client.log_artifacts(parent.run_id, entry.folder, entry.artifact_path)

    def merge(self, entry: Entry) -> None:
        """Read the runs of the entry's sweep anew, and let no two have one identity.

        A request that seemed lost can be carried out late; whoever sends any should end with this.
        """
        self.forget()
        self._known(entry.experiment, entry.sweep_key)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                self._experiments[name] = self._new_experiment(name)
            else:
                if found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _new_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.create_experiment(
                name, artifact_location(self._uri, name), EXPERIMENT_TAGS
            )
        except MlflowException:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return found.experiment_id  # Another sweep of this name was faster.

    def _known(self, experiment: str, sweep_key: str) -> dict[str, _Logged]:
        """Runs of a sweep by identity, read once."""
        known = self._runs.get(sweep_key)
        if known is None:
            known = {}
            for run in self._search(experiment, sweep_key):
                logged = _logged(run)
                identity = logged.tags["w2s.identity"]
                if identity in known:
                    logged = self._merged(known[identity], logged)
                known[identity] = logged
            parent = known.get("sweep")
            for identity, logged in known.items():
                if parent and identity != "sweep":
                    self._adopt(logged, parent)
            self._runs[sweep_key] = known
        return known

    def _search(self, experiment: str, sweep_key: str) -> "list[Run]":
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment(experiment)],
                f"tags.`w2s.sweep_key` = '{sweep_key}'",
                max_results=1000,
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _merged(self, one: _Logged, other: _Logged) -> _Logged:
        """Of two runs with one identity the one that is whole; all processes choose alike."""
        kept, removed = sorted((one, other), key=lambda run: (not run.content, run.run_id))
        log.info("run %s of MLflow is there twice; %s is deleted", kept.run_id, removed.run_id)
        self._client.delete_run(removed.run_id)
        return kept

    def _adopt(self, logged: _Logged, parent: _Logged) -> None:
        """A run below one that was merged away moves to the one that was kept."""
        if logged.tags.get("mlflow.parentRunId") != parent.run_id:
            self._client.set_tag(logged.run_id, "mlflow.parentRunId", parent.run_id)
            logged.tags["mlflow.parentRunId"] = parent.run_id

    def _parent(self, entry: Entry, known: dict[str, _Logged]) -> _Logged:
        """The run of the sweep, made bare if its own entry is still to come."""
        if "sweep" not in known:
            run = self._client.create_run(
                self._experiment(entry.experiment),
                start_time=_milliseconds(entry.sweep_started) if entry.sweep_started else None,
                tags=_own_tags(entry, "sweep"),
                run_name=entry.experiment,
            )
            known["sweep"] = _logged(run)
        return known["sweep"]

    def _upsert(self, entry: RunEntry, known: dict[str, _Logged]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        # Times are not content: a trial that is answered from the store ends anew in every run.
        timeless = {"sweep_started": 0.0, "started": 0.0, "finished": 0.0}
        content = digest(entry.model_copy(update=timeless))
        tags = {_legal(name): _text(value, TAG_LENGTH) for name, value in entry.tags.items()}
        run = known.get(entry.identity)
        if run is None:
            run = known[entry.identity] = self._new_run(entry, tags, known)
        elif run.content == content and run.status == entry.status:
            return
        for name in run.tags.keys() - tags.keys() - set(OWN_TAGS):
            if name.startswith("w2s."):  # Such as the cause of a failure that is mended.
                self._client.delete_tag(run.run_id, name)
                del run.tags[name]
        self._log_inputs(run, entry.inputs)
        end_ms = _milliseconds(entry.finished or entry.started)
        metrics = [
            Metric(_legal(m.name), m.value, m.time_ms or end_ms, m.step) for m in entry.metrics
        ]
        params = {
            _legal(name): _text(value, PARAMETER_LENGTH) for name, value in entry.params.items()
        }
        new_params = [Param(k, v) for k, v in params.items() if k not in run.params]
        new_tags = [RunTag(k, v) for k, v in tags.items() if run.tags.get(k) != v]
        # The content tag goes last: an entry cut off half-way is written again.
        new_tags.append(RunTag("w2s.content", content))
        self._log(run.run_id, metrics, new_params, new_tags)
        run.params |= params.keys()
        run.tags |= {**tags, "w2s.content": content}
        if entry.status == "RUNNING":
            if run.status != "RUNNING":
                self._client.update_run(run.run_id, status="RUNNING")
        else:
            self._client.set_terminated(run.run_id, entry.status, end_ms)
        run.status = entry.status

    def _new_run(self, entry: RunEntry, tags: dict[str, str], known: dict[str, _Logged]) -> _Logged:
        own = _own_tags(entry, entry.identity)
        if entry.identity != "sweep":
            own["mlflow.parentRunId"] = self._parent(entry, known).run_id
        run = self._client.create_run(
            self._experiment(entry.experiment),
            start_time=_milliseconds(entry.started),
            tags={**tags, **own},
            run_name=_text(entry.name, TAG_LENGTH),
        )
        return _logged(run)

    def _log(
        self, run_id: str, metrics: "list[Metric]", params: "list[Param]", tags: "list[RunTag]"
    ) -> None:
        """In as few requests as MLflow's limits allow, the last tag in the last one."""
        while len(params) > BATCH or len(metrics) > METRIC_BATCH or len(tags) > BATCH:
            full = len(tags) > BATCH
            self._client.log_batch(
                run_id, metrics[:METRIC_BATCH], params[:BATCH], tags[:BATCH] if full else ()
            )
            metrics, params = metrics[METRIC_BATCH:], params[BATCH:]
            tags = tags[BATCH:] if full else tags
        self._client.log_batch(run_id, metrics, params, tags)

    def _log_inputs(self, run: _Logged, inputs: tuple[DataSet, ...]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

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
            if data.name not in run.inputs
        ]
        if new:
            self._client.log_inputs(run.run_id, new)
            run.inputs |= {data.name for data in inputs}


def _logged(run: "Run") -> _Logged:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return _Logged(
        run.info.run_id,
        run.info.status,
        dict(run.data.tags),
        set(run.data.params),
        {item.dataset.name for item in inputs},
    )


def _own_tags(entry: Entry, identity: str) -> dict[str, str]:
    """Tags of a run that no entry names."""
    return {
        "w2s.sweep_key": entry.sweep_key,
        "w2s.identity": identity,
        "mlflow.source.type": "LOCAL",
        "mlflow.user": os.environ.get("USER", ""),
    }


def _legal(name: str) -> str:
    """A name with the characters that MLflow takes, and no path to anywhere else."""
    name = "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)[:250]
    plain = name != "." and not name.startswith(("/", ".."))
    return name if plain and posixpath.normpath(name) == name else "_" + name.replace("/", "_")


def _text(value: str, length: int) -> str:
    """Text that every database takes: PostgreSQL has no NUL."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")[:length]


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
