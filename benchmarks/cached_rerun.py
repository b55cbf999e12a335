"""Time of `w2s run` on a sweep that is in the store as a whole: replay, scores, report, MLflow.

    python benchmarks/cached_rerun.py [--json] [--trials 1000] [--seeds 1] [--tasks 2] [--repeats 5]

The store is made first: what trainings predict is made up, everything else is computed as in a
sweep, from the data to the evaluations. Then `w2s run` runs on it as a process of its own: the
first time with an empty MLflow file, which it fills (`first_s`), then again (`again_s`, the median
of the repeats). Seconds are those of the clock, from the start of the process to its end;
`again_cpu_s` are those of the processor.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from planning import grid

from sweeps.config import Sweep
from sweeps.events import CurvePoint, StageRecord
from sweeps.plan import Plan, Planner, Point
from sweeps.store import ArtifactStore
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import read_prompts
from w2s.stages.finetune import Finetune
from w2s.stages.predictions import write_predictions
from w2s.stages.tokens import Tokens

FILE = """import sys
from pathlib import Path
from sweeps.config import Sweep
from sweeps.runtime import Runtime

HERE = Path(__file__).parent

def sweep():
    return Sweep.model_validate_json((HERE / "sweep.json").read_text())

def runtime():
    return Runtime(
        store=str(HERE / "store"),
        tracking_uri=f"sqlite:///{HERE / 'mlflow.db'}",
        report_dir=str(HERE / "reports"),
    )
"""


def main() -> None:
    """Print one table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder to make the store in, used again if full")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        sweep = grid(arguments.tasks, arguments.trials, seeds=arguments.seeds, methods=("naive",))
        num_trials, num_stages = filled(folder, sweep)
        for left in ("mlflow.db", "store/.tracking"):
            subprocess.run(["rm", "-rf", str(folder / left)], check=True)
        first, _ = rerun(folder)
        runs = [rerun(folder) for _ in range(arguments.repeats)]
    figures = {
        "trials": num_trials,
        "stages": num_stages,
        "first_s": round(first, 1),
        "again_s": round(statistics.median(wall for wall, _ in runs), 1),
        "again_cpu_s": round(statistics.median(cpu for _, cpu in runs), 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
    }
    for name, value in figures.items():
        print(f"{name:16}{value:>12,}")
    if arguments.json:
        print(json.dumps(figures))


def rerun(folder: Path) -> tuple[float, float]:
    """Seconds of one `w2s run`, by the clock and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", "run", str(folder / "sweep.py")],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    wall = time.perf_counter() - started
    if done.returncode or "everything is cached" not in done.stdout:
        sys.exit(f"the sweep did not replay:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def filled(folder: Path, sweep: Sweep) -> tuple[int, int]:
    """Write a sweep's file and its whole store; returns the numbers of trials and stages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(sweep.model_dump_json())
    (folder / "sweep.py").write_text(FILE)
    planner = Planner(sweep)
    points = [Point(cell) for cell in planner.cells()]
    roots = [root for point in points for roles in planner.roles(point).values() for root in roles]
    stages = Plan(roots).stages
    store = ArtifactStore(str(folder / "store"))
    present = store.present(stages.values())
    for number, stage in enumerate(stages.values()):
        if stage.key not in present:
            commit(store, stage, number)
    return len(points), len(stages)


def commit(store: ArtifactStore, stage: Stage, number: int) -> None:
    """Leave the artifact of a stage: made-up predictions of a training, else what it computes."""
    started = time.time()
    with store.workspace(stage) as path:
        if isinstance(stage, Finetune):
            rows = read_prompts(store.local(stage.prompts))
            rows = rows[rows["split"].isin(stage.predicts)]
            rng = np.random.default_rng(number)
            positive = rng.random(len(rows)).astype(np.float32) * 0.98 + 0.01
            logprobs = np.log(np.stack([1 - positive, positive], axis=1))
            write_predictions(path, list(rows["split"]), list(rows["row_id"]), logprobs)
        elif stage.lane == "light" and not isinstance(stage, Tokens):
            inputs = {source.key: store.local(source) for source in stage.inputs}
            stage.run(StageContext(output_dir=path, inputs=inputs))
        else:
            (path / "nothing.json").write_text("{}")  # What nobody reads who only looks at results.
        curve = tuple(CurvePoint(step, 10, {"loss": 1 / step}, started) for step in range(1, 11))
        record = StageRecord(
            key=stage.key,
            name=stage.name,
            kind=stage.kind,
            identity=stage.identity(),
            started=started,
            finished=time.time(),
            host="benchmark",
            curve=curve if stage.lane == "train" else (),
        )
        store.commit(stage, path, record)


if __name__ == "__main__":
    main()
