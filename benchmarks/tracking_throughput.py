"""Runs a second that reach MLflow, against logging each number as MLflow's quickstart does.

    python benchmarks/tracking_throughput.py [--json] [--runs 100] [--points 50] [--repeats 5]

A run is that of a stage: 20 parameters, 6 tags, a curve. `runs_per_cpu_s` is that of `Tracker` on
a SQLite file, all in the background; `ratio_to_plain` is how much less of the processor that takes
than `create_run`, `log_param`, `set_tag`, `log_metric`, `set_terminated`, one value a call;
`again_per_cpu_s` is that of a sweep that is logged once more; `log_ms` is how long the driver is
held up by one entry, which is all that a sweep waits for, on the clock. Medians of the repeats.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from sweeps.events import CurvePoint, StageEvent, StageRecord
from sweeps.results import RungSummary, SweepSummary, TaskSummary
from sweeps.runs import RunEntry, stage_entry, sweep_entry
from sweeps.tracking import Tracker
from sweeps.writer import prepare_environment

NUM_PARAMS = 20


def main() -> None:
    """Print one table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    prepare_environment()
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        through_tracker(uri, Path(folder) / "first", sweep("first", 1, 1))  # Makes the file.
        for repeat in range(arguments.repeats):
            entries = sweep(f"sweep-{repeat}", arguments.runs, arguments.points)
            log_s, first_s = through_tracker(uri, Path(folder) / f"first-{repeat}", entries)
            _, again_s = through_tracker(uri, Path(folder) / f"again-{repeat}", entries)
            plain_s = plainly(uri, f"plain-{repeat}", entries)
            found.append(
                {
                    "runs_per_cpu_s": len(entries) / first_s,
                    "again_per_cpu_s": len(entries) / again_s,
                    "ratio_to_plain": plain_s / first_s,
                    "log_ms": 1000 * log_s / len(entries),
                }
            )
    medians = {name: statistics.median(each[name] for each in found) for name in found[0]}
    for name, value in medians.items():
        print(f"{name:16} {value:8.1f}")
    if arguments.json:
        print(json.dumps(medians))


def sweep(name: str, num_runs: int, num_points: int) -> list[RunEntry]:
    """The entries of a sweep of this many stages."""
    summary = SweepSummary(
        name=name,
        sweep_key=name.rjust(16, "0"),
        command="w2s run",
        started=1e9,
        finished=2e9,
        seeds=(0,),
        tasks=(TaskSummary(name="t"),),
        ladder=(RungSummary(name="m", num_parameters=1, num_non_embedding=1),),
    )
    entries = [sweep_entry(summary)]
    for number in range(num_runs):
        record = StageRecord(
            key=f"{number:016x}",
            name=f"finetune-{number}",
            kind="finetune",
            identity={f"field_{i}": i for i in range(NUM_PARAMS)},
            started=1e9 + number,
            finished=1e9 + number + 1,
            host="here",
            location="there",
            curve=tuple(
                CurvePoint(step, num_points, {"loss": 1 / (step + 1)}, 1e9 + step)
                for step in range(num_points)
            ),
        )
        event = StageEvent(0, "done", record.key, record.name, record.kind, 1e9, record)
        entry = stage_entry(summary, event)
        assert entry is not None
        entries.append(entry)
    return entries


def through_tracker(uri: str, journal: Path, entries: list[RunEntry]) -> tuple[float, float]:
    """Seconds until all is queued, and of the processor until all is in MLflow."""
    started, cpu_started = time.perf_counter(), time.process_time()
    tracker = Tracker(uri, journal)
    for entry in entries:
        tracker.log(entry)
    queued_s = time.perf_counter() - started
    problems = tracker.close(timeout_s=3600)
    assert not problems, problems
    return queued_s, time.process_time() - cpu_started


def plainly(uri: str, experiment: str, entries: list[RunEntry]) -> float:
    """Seconds of the processor for one value a call."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    number = client.create_experiment(experiment)
    started = time.process_time()
    for entry in entries:
        run = client.create_run(number, run_name=entry.name).info.run_id
        for name, value in entry.params.items():
            client.log_param(run, name, value)
        for name, value in entry.tags.items():
            client.set_tag(run, name, value)
        for metric in entry.metrics:
            client.log_metric(run, metric.name, metric.value, step=metric.step)
        client.set_terminated(run)
    return time.process_time() - started


if __name__ == "__main__":
    main()
