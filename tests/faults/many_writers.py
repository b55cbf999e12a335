"""Several drivers in one process, each with a sweep to log: `many_writers URI FOLDER FIRST LAST`.

Sweeps `FIRST` to `LAST` - 1; waits for a line on its standard input before it begins.
"""

import sys
import threading
from pathlib import Path

from sweeps.events import CurvePoint, StageEvent, StageRecord
from sweeps.results import SweepSummary
from sweeps.runs import Entry, stage_entry, sweep_entry, trial_entry
from sweeps.tracking import Tracker
from tests.sweeps import synthetic

NUM_TRIALS = 4
NUM_STAGES = 4
NUM_POINTS = 50


def summary(number: int) -> SweepSummary:
    made = synthetic.summary(("world 0",), 10)
    return made.model_copy(update={"name": f"sweep-{number}", "sweep_key": f"{number:016d}"})


def entries(number: int) -> list[Entry]:
    """What a small sweep logs."""
    of = summary(number)
    found: list[Entry | None] = [sweep_entry(of, fingerprints={"world 0": "f" * 64})]
    for stage in range(NUM_STAGES):
        key = f"{stage:016x}"
        curve = tuple(
            CurvePoint(step, NUM_POINTS, {"loss": 1 / (step + 1)}, 1e9 + step)
            for step in range(NUM_POINTS)
        )
        record = StageRecord(
            key, f"finetune-{stage}", "finetune", {"a": stage}, 1e9, 2e9, "here", "", curve
        )
        found.append(
            stage_entry(of, StageEvent(0, "done", key, record.name, "finetune", 2e9, record))
        )
    trial = synthetic.World("world 0", 10, 0).trial("pairs", "xs", "l")
    for number_of_trial in range(NUM_TRIALS):
        own = trial.model_copy(update={"trial_id": f"{number_of_trial:016x}"})
        found.append(trial_entry(of, own, metrics={"pgr": 0.5}, started=1e9, finished=2e9))
    found.append(
        sweep_entry(
            of, fingerprints={"world 0": "f" * 64}, metrics={"num_trials": 4.0}, status="FINISHED"
        )
    )
    return [entry for entry in found if entry is not None]


def log_sweep(uri: str, folder: Path, number: int, problems: list[str]) -> None:
    """As a driver does it, with its journal where another driver of this sweep has its own."""
    tracker = Tracker(uri, folder / f"sweep-{number}")
    for entry in entries(number):
        tracker.log(entry)
    problems.extend(tracker.close(timeout_s=600))


if __name__ == "__main__":
    uri, folder, first, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    print("ready", flush=True)
    sys.stdin.readline()
    problems: list[str] = []
    threads = [
        threading.Thread(target=log_sweep, args=(uri, folder, number, problems))
        for number in range(first, last)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(problems))
    sys.exit(bool(problems))
