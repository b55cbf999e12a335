"""MLflow runs as values: what one run holds, for a sweep, a trial and the execution of a stage.

`sweep_entry`, `trial_entry` and `stage_entry` make a `RunEntry`; a `FolderEntry` is files for the
sweep's run. Both are plain specs that go through JSON, so that a log can wait for its server;
`sweeps.tracking` writes them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field, TypeAdapter, field_validator

from sweeps.events import StageEvent
from sweeps.results import SweepSummary, TrialResult
from w2s.redaction import all_redacted
from w2s.spec import Spec


class MetricValue(NamedTuple):
    """One number of a run."""

    name: str
    value: float
    step: int = 0
    time_ms: int = 0
    """Unix time in milliseconds; 0: the end of the run."""


class DataSet(Spec):
    """A data set that a run used."""

    name: str
    """Label of the task."""
    digest: str
    """Fingerprint of the data, at most 36 characters."""
    profile: dict[str, int] = Field(default_factory=dict)
    """Rows by split."""


class RunEntry(Spec):
    """All that one MLflow run holds, apart from artifacts."""

    experiment: str
    """MLflow experiment: the sweep's name."""
    sweep_key: str
    """Sweep to which the run belongs."""
    sweep_started: float = 0.0
    """Unix time in seconds at which the sweep began; 0: not known."""
    identity: str
    """`sweep`, `trial:ID` or `stage:KEY:START`: unique within the sweep."""
    name: str
    """Run name in the UI."""
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"] = "FINISHED"
    """Status of the run once the entry is written."""
    started: float = 0.0
    """Unix time in seconds."""
    finished: float = 0.0
    """Unix time in seconds; 0 while it runs."""
    params: dict[str, str] = Field(default_factory=dict)
    """Parameters; one that the run already has keeps its value."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Tags; these are replaced."""
    metrics: tuple[MetricValue, ...] = ()
    """Metrics; one that is not finite is left out, for it has no place in JSON."""
    inputs: tuple[DataSet, ...] = ()
    """Data sets used."""

    @field_validator("params", "tags", mode="before")
    @classmethod
    def _without_secrets(cls, values: dict[str, str]) -> dict[str, str]:
        return all_redacted(values)

    @field_validator("metrics")
    @classmethod
    def _finite(cls, metrics: tuple[MetricValue, ...]) -> tuple[MetricValue, ...]:
        return tuple(metric for metric in metrics if math.isfinite(metric.value))


class FolderEntry(Spec):
    """Files to attach to a run of the sweep."""

    experiment: str
    """MLflow experiment."""
    sweep_key: str
    """Sweep to which the run belongs."""
    sweep_started: float = 0.0
    """Unix time in seconds at which the sweep began; 0: not known."""
    folder: str
    """Local folder; everything in it is logged."""
    artifact_path: str
    """Folder among the artifacts of the parent run."""


TRIALS_VIEW = "trials"
"""Key of the view of the runs table that shows trials with their scores."""
_VIEW_COLUMNS = (
    *(f"params.`{name}`" for name in ("block", "task", "weak", "strong", "method", "loss")),
    *(
        f"metrics.`{name}`"
        for name in ("floor", "supervisor", "test_accuracy", "ceiling", "pgr", "val_accuracy")
    ),
)
EXPERIMENT_TAGS = {
    # The MLflow UI then opens on runs, not on its pages for agents.
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{TRIALS_VIEW}": json.dumps(
        {
            "searchFilter": "tags.`w2s.trial` LIKE '%'",
            "orderByKey": "attributes.`Created`",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": _VIEW_COLUMNS,
            "runsExpanded": {},
            "runsPinned": [],
            "runsHidden": [],
        }
    ),
}
"""Tags of a sweep's experiment: what its page in the UI shows."""

Entry = RunEntry | FolderEntry
ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)
"""To and from JSON."""


def sweep_entry(
    summary: SweepSummary,
    *,
    fingerprints: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"] = "RUNNING",
) -> RunEntry:
    """The parent run of a sweep.

    Args:
        summary: what is swept; its `spec` becomes the parameters.
        fingerprints: of the data of each task, by the task's name.
        metrics: numbers of the whole sweep.
        status: `RUNNING` at the start, an end state when it is over.
    """
    prints = fingerprints or {}
    running = status == "RUNNING"
    return RunEntry(
        experiment=summary.name,
        sweep_key=summary.sweep_key,
        sweep_started=summary.started,
        identity="sweep",
        name=summary.name,
        status=status,
        started=summary.started,
        finished=0.0 if running else summary.finished,
        params=dict(flattened(summary.spec)),
        tags={
            "w2s.sweep": summary.name,
            "mlflow.note.content": summary.description,
            "mlflow.source.name": summary.command,
            "w2s.seeds": ", ".join(map(str, summary.seeds)),
            "w2s.ladder": ", ".join(rung.name for rung in summary.ladder),
        },
        metrics=() if running else tuple(MetricValue(*item) for item in (metrics or {}).items()),
        inputs=tuple(
            DataSet(name=task.name, digest=prints[task.name][:36], profile=task.num_rows)
            for task in summary.tasks
            if task.name in prints
        ),
    )


def trial_entry(
    summary: SweepSummary,
    trial: TrialResult,
    *,
    metrics: Mapping[str, float] | None = None,
    by_seed: Mapping[str, Sequence[float]] | None = None,
    notes: Mapping[str, str] | None = None,
    started: float,
    finished: float,
) -> RunEntry:
    """The child run of a trial that ended.

    Args:
        summary: the sweep.
        trial: its point, its seeds and how it ended.
        metrics: means over seeds, such as `test_accuracy` and `pgr`.
        by_seed: the same by seed, in the order of `trial.keys`; logged as `NAME_by_seed` with the
            position as step.
        notes: words in place of a number, such as `pgr` = `gap too small`, as tags `w2s.NAME`.
        started: Unix time in seconds.
        finished: Unix time in seconds.
    """
    sizes = {rung.name: rung for rung in summary.ladder}
    values = [MetricValue(name, value) for name, value in (metrics or {}).items()]
    for name, series in (by_seed or {}).items():
        values += [MetricValue(f"{name}_by_seed", value, step) for step, value in enumerate(series)]
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED"
    if trial.status != "done":
        status = "FAILED" if trial.status == "failed" else "KILLED"
    return RunEntry(
        experiment=summary.name,
        sweep_key=summary.sweep_key,
        sweep_started=summary.started,
        identity=f"trial:{trial.trial_id}",
        name=_trial_name(summary, trial),
        status=status,
        started=started,
        finished=finished,
        params={
            "block": trial.block,
            "task": trial.task,
            "weak": trial.weak,
            "strong": trial.strong,
            "weak_parameters": str(sizes[trial.weak].num_parameters),
            "strong_parameters": str(sizes[trial.strong].num_parameters),
            "method": trial.method,
            "loss": trial.loss,
            **{path: str(value) for path, value in trial.hyperparameters.items()},
        },
        tags={
            "w2s.trial": trial.trial_id,
            "w2s.status": trial.status,
            "w2s.seeds": ", ".join(map(str, trial.seeds)),
            "w2s.stages": " ".join(trial.evaluations),
            **({"w2s.cause": trial.cause} if trial.cause else {}),
            **{f"w2s.{name}": text for name, text in (notes or {}).items()},
        },
        metrics=tuple(values),
    )


def _trial_name(summary: SweepSummary, trial: TrialResult) -> str:
    """The trial's name, with what tells it from the sweep's others: task and searched values."""
    task = f"{trial.task} " if len(summary.tasks) > 1 else ""
    values = ", ".join(
        f"{path.rpartition('.')[2]} {value:.3g}"
        if isinstance(value, float)
        else f"{path.rpartition('.')[2]} {value}"
        for path, value in trial.hyperparameters.items()
    )
    return f"{task}{trial.name}" + (f" ({values})" if values else "")


def stage_entry(summary: SweepSummary, event: StageEvent) -> RunEntry | None:
    """The run of a stage execution; None for a stage that was cached, cancelled or never began."""
    common = {
        "w2s.stage": event.kind,
        "w2s.key": event.key,
        "w2s.stage_name": event.name,
    }
    if event.state == "done" and event.record is not None:
        record = event.record
        return RunEntry(
            experiment=summary.name,
            sweep_key=summary.sweep_key,
            sweep_started=summary.started,
            identity=f"stage:{event.key}:{record.started:.3f}",
            name=event.name.replace("-", " "),
            started=record.started,
            finished=record.finished,
            params=dict(flattened(record.identity)),
            tags={**common, "w2s.host": record.host, "w2s.location": record.location},
            metrics=(
                MetricValue("wall_s", record.wall_s),
                *(
                    MetricValue(name, float(value), point.step, int(point.time * 1000))
                    for point in record.curve
                    for name, value in point.metrics.items()
                ),
            ),
        )
    if event.state == "failed" and event.traceback:  # Without one, an input of it failed.
        return RunEntry(
            experiment=summary.name,
            sweep_key=summary.sweep_key,
            sweep_started=summary.started,
            identity=f"stage:{event.key}:{event.time:.3f}",
            name=event.name.replace("-", " "),
            status="FAILED",
            started=event.time,
            finished=event.time,
            tags={**common, "w2s.cause": event.cause, "w2s.traceback": event.traceback},
        )
    return None


def flattened(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Scalars of nested tables and lists as (`a.b.0.c`, text), without what is None or empty."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flattened(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        if value and all(isinstance(item, str | int | float) for item in value):
            yield path, ", ".join(map(str, value))
        else:
            for index, inner in enumerate(value):
                yield from flattened(inner, f"{path}.{index}")
    elif value is not None and value != "":
        yield path, str(value)
