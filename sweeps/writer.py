"""Entries into MLflow: the one place that calls its client to write.

`Writer` applies an entry of `sweeps.runs` as an upsert. It uses `MlflowClient` with explicit run
ids; the fluent API keeps global state and is not touched.
"""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.runs import EXPERIMENT_TAGS, DataSet, Entry, RunEntry
from w2s.spec import digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

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


def sqlite_path(uri: str) -> Path:
    """File of a `sqlite:///` URI, absolute."""
    return Path(uri.removeprefix("sqlite:///")).absolute()


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where an experiment's artifacts go: beside a SQLite file; None leaves it to the server."""
    if not uri.startswith("sqlite:"):
        return None
    return (sqlite_path(uri).parent / "mlartifacts" / experiment).as_uri()


class Writer:
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
        """Make MLflow hold the entry; raises what MLflow raises."""
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
