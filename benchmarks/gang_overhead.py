"""What a stage costs beside its own work: in a warm gang, and with its own `TorchTrainer.fit()`.

    python benchmarks/gang_overhead.py [--json] [--stages 40] [--fits 5] [--workers 1]

The same trivial training stages run both ways in one process on one local cluster: first one after
another through the stage broker (asked for, run in a gang that is up, committed to the store,
answered), then each in a worker group that is started for it. The time of `Stage.run` itself is
taken off. The start of the gang is reported apart.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from typing import ClassVar

from rich.console import Console
from rich.table import Table

from sweeps import cluster
from sweeps.broker import start_broker
from sweeps.resources import Execution, GangShape, worker_environment
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_stage
from w2s.stages.base import Lane, Stage, StageContext
from w2s.training.distributed import Member, run_gang


class Trivial(Stage):
    """A training stage that trains nothing."""

    lane: ClassVar[Lane] = "train"

    index: int
    """Tells stages apart."""

    def run(self, context: StageContext) -> None:
        """Write one number."""
        (context.output_dir / "number.json").write_text(str(self.index))


def run_alone(member: Member, stage: Stage, root: str) -> None:
    """What the worker group of a single stage does."""
    run_stage(stage, ArtifactStore(root), Conditions(replicas=member.replicas))


def in_gang(root: str, shape: GangShape, count: int) -> tuple[float, list[float]]:
    """Seconds until the first stage of a new gang is done, and overhead of each further one."""
    with start_broker(Execution(store=root, shape=shape, max_gangs=1)) as broker:
        times = [timed(partial(broker.request, [Trivial(index=i)])) for i in range(count + 1)]
    return times[0], [time - own(root, i) for i, time in enumerate(times)][1:]


def with_own_fit(root: str, shape: GangShape, count: int) -> list[float]:
    """Overhead of each stage in a worker group of its own."""
    overheads = []
    for index in range(count):
        start = partial(
            run_gang,
            partial(run_alone, stage=Trivial(index=index), root=root),
            storage_path=f"{root}/.gangs",
            num_workers=shape.num_workers,
            cpus_per_worker=shape.cpus_per_worker,
            environment=worker_environment(shape.threads_per_worker),
        )
        overheads.append(timed(start) - own(root, index))
    return overheads


def own(root: str, index: int) -> float:
    """Seconds a stage took for itself."""
    return ArtifactStore(root).record(Trivial(index=index)).wall_s


def timed(call: partial[None]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Measure both ways and print."""
    parser = argparse.ArgumentParser(description="Overhead of a stage in a warm gang.")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--stages", type=int, default=40, help="stages in the warm gang")
    parser.add_argument(
        "--fits", type=int, default=5, help="stages with a worker group of their own"
    )
    parser.add_argument("--workers", type=int, default=1, help="workers of a group")
    arguments = parser.parse_args()
    shape = GangShape(num_workers=arguments.workers)
    with tempfile.TemporaryDirectory() as folder, cluster.connected():
        first_s, warm = in_gang(f"{folder}/gang", shape, arguments.stages)
        alone = with_own_fit(f"{folder}/alone", shape, arguments.fits)
    result = {
        "stage_overhead_s_median": statistics.median(warm),
        "stage_overhead_s_p95": statistics.quantiles(warm, n=20)[-1],
        "stages": len(warm),
        "gang_start_s": first_s,
        "fit_overhead_s_median": statistics.median(alone),
        "fit_overhead_s_max": max(alone),
        "fits": len(alone),
        "ratio": statistics.median(alone) / statistics.median(warm),
        "workers": shape.num_workers,
        "cpus": os.cpu_count(),
    }
    table = Table(title="overhead of a stage, seconds", title_justify="left")
    for name in ("", "median", "p95 / max", "stages"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row(
        "in a warm gang",
        f"{result['stage_overhead_s_median']:.4f}",
        f"{result['stage_overhead_s_p95']:.4f}",
        str(len(warm)),
    )
    table.add_row(
        "one TorchTrainer.fit() each",
        f"{result['fit_overhead_s_median']:.2f}",
        f"{result['fit_overhead_s_max']:.2f}",
        str(len(alone)),
    )
    console = Console()
    console.print(table)
    console.print(f"the gang itself took {first_s:.1f} s to start; ratio {result['ratio']:.0f}")
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
