"""How fast a sweep is: against its own computing, and against one process for each cell.

    python benchmarks/sweep_makespan.py [--json] [--epochs 8] [--cells 24] [--repeats 5]

A sweep of 24 cells (four rungs, all six pairs, two losses, two seeds) on made-up base models that
both ways find ready. `w2s run` does it once: `makespan_s` goes from the start of its first stage to
the end of its last, `sweep_s` is the whole command. The other way is that of the published
repositories: for each cell a process of its own that imports, makes the data, trains the weak
model, labels, trains the student and the ceiling, and evaluates; here with the same code and a
store of its own. `--cells` measures only so many of them, evenly drawn, and scales up. Each process
has all cores; `in parallel` is what as many single-thread processes as there are cores would take
if they did not disturb each other.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from sweeps.artifacts import place_of
from sweeps.config import Sweep
from sweeps.plan import Plan, Planner, Point, planned_stages
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_stage
from w2s.corpora.base import Corpus
from w2s.models.architecture import Architecture
from w2s.spec import parse
from w2s.tasks.almanac import Almanac

ROOT = Path(__file__).parents[1]
SIZES = {"xs": 32, "s": 48, "m": 64, "l": 96}
FILE = """from pathlib import Path
from sweeps.config import Sweep

HERE = Path(__file__).parent

def sweep():
    return Sweep.model_validate_json((HERE / "sweep.json").read_text())
"""


def main() -> None:
    """Print one table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        run_cell(Path.cwd(), int(arguments.cell))
        return
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sweep = written(folder, arguments.epochs)
        runs = [in_sweep(folder, sweep, number) for number in range(arguments.repeats)]
        whole = len(cells(Planner(sweep)))
        numbers = evenly(arguments.cells, whole)
        both = [
            (in_processes(folder, numbers, whole, cores), in_processes(folder, numbers, whole, 1))
            for _ in range(arguments.repeats)
        ]
    sweep_s, makespan_s, compute_s = (
        statistics.median(values) for values in zip(*runs, strict=True)
    )
    apart_s, apart_single_s = (statistics.median(values) for values in zip(*both, strict=True))
    figures = {
        "cores": cores,
        "cells_measured": len(numbers),
        "sweep_s": round(sweep_s, 1),
        "makespan_s": round(makespan_s, 1),
        "compute_s": round(compute_s, 1),
        "makespan_over_compute_per_core": round(makespan_s / (compute_s / cores), 3),
        "process_per_cell_s": round(apart_s, 1),
        "speedup_over_process_per_cell": round(apart_s / sweep_s, 2),
        "process_per_cell_in_parallel_s": round(apart_single_s / cores, 1),
        "speedup_over_processes_in_parallel": round(apart_single_s / cores / sweep_s, 2),
    }
    for name, value in figures.items():
        print(f"{name:38}{value:>10,}")
    if arguments.json:
        print(json.dumps(figures))


def written(folder: Path, epochs: int) -> Sweep:
    """The sweep, and the file and base models of it in a folder."""
    tokenizer = (
        parse(Corpus, {"kind": "almanac", "rare_share": 0.5, "custom_share": 0.5})
        .bind(Almanac())
        .tokenizer()
    )
    for seed, (name, hidden) in enumerate(SIZES.items()):
        architecture = Architecture(
            hidden_size=hidden, num_layers=2, num_heads=2, intermediate_size=3 * hidden
        )
        architecture.build(tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    recipe = {"learning_rate": 5e-4, "epochs": epochs}
    sweep = Sweep.model_validate(
        {
            "name": "makespan",
            "task": {"kind": "almanac"},
            "ladder": [{"name": name, "model": str(folder / name)} for name in SIZES],
            "supervisor": recipe,
            "student": recipe,
            "blocks": [{"name": "pairs", "losses": ["xent", "confidence"]}],
            "seeds": [0, 1],
        }
    )
    (folder / "sweep.json").write_text(sweep.model_dump_json())
    (folder / "sweep.py").write_text(FILE)
    return sweep


def cells(planner: Planner) -> list[tuple[Point, int]]:
    """Every point at every seed."""
    points = [Point(cell) for cell in planner.cells()]
    return list(product(points, planner.sweep.seeds))


def evenly(wanted: int, number: int) -> list[int]:
    """So many of the first `number` whole numbers, evenly spread."""
    wanted = min(wanted, number)
    return [index * number // wanted for index in range(wanted)]


def in_sweep(folder: Path, sweep: Sweep, number: int) -> tuple[float, float, float]:
    """Seconds of `w2s run`, of its stages from first to last, and of all stages together."""
    here = folder / f"sweep-{number}"
    command = [sys.executable, "-m", "sweeps.cli", "run", str(folder / "sweep.py"), "--plain"]
    settings = {
        "store": here / "store",
        "tracking_uri": f"sqlite:///{here / 'mlflow.db'}",
        "report_dir": here / "reports",
    }
    here.mkdir()
    for name, value in settings.items():
        command += ["--set", f"runtime.{name}='{value}'"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, env=environment(1))
    sweep_s = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"the sweep failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    store = ArtifactStore(str(here / "store"))
    plan, _ = planned_stages(Planner(sweep))
    records = [store.record_at(place_of(stage)) for stage in plan.stages.values()]
    first = min(record.started for record in records)
    last = max(record.finished for record in records)
    return sweep_s, last - first, sum(record.wall_s for record in records)


def in_processes(folder: Path, numbers: list[int], num_cells: int, threads: int) -> float:
    """Seconds of a process for each cell, one after another; scaled up to all cells."""
    total = 0.0
    for number in numbers:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--cell", str(number)],
            cwd=folder,
            check=True,
            env=environment(threads),
        )
        total += time.perf_counter() - started
    return total * num_cells / len(numbers)


def run_cell(folder: Path, number: int) -> None:
    """All stages of one cell in this process, with a store of its own."""
    planner = Planner(Sweep.model_validate_json((folder / "sweep.json").read_text()))
    point, seed = cells(planner)[number]
    with tempfile.TemporaryDirectory() as store:
        plan = Plan(planner.experiment(point).roles(seed))
        for stage in plan.stages.values():
            outcome = run_stage(stage, ArtifactStore(store), Conditions())
            if outcome.record is None:
                sys.exit(f"{stage.name}: {outcome.cause}")


def environment(threads: int) -> dict[str, str]:
    """Of a process that imports this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


if __name__ == "__main__":
    main()
