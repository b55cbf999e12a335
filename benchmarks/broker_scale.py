"""How many stages a second go through the broker when none of them does any work.

    python benchmarks/broker_scale.py [--json] [--stages 10000] [--depth 6] [--runs 5] [--workers 2]

A graph of layers is asked for at once; every stage reads two of the layer below it and writes one
small file. A local Ray cluster runs it: the broker, the light workers and the store are those of a
sweep, and every stage is planned, run, committed with its record and checksums, and told of. Each
run has a store and a broker of its own; the start of the processes is not counted. The store lies
in the folder for temporary files: set TMPDIR to a fast disk, or to memory. On a machine with other
work look at `stages_per_cpu_s`: stages per processor second of broker and workers together.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

from idle_stages import Usage, Zero, usage
from rich.console import Console
from rich.table import Table

from sweeps import cluster
from sweeps.broker import start_broker
from sweeps.resources import Execution, GangShape


def layers(stages: int, depth: int) -> list[Zero]:
    """The top layer of a graph of `stages` stages."""
    width = stages // depth
    layer = [Zero(index=index) for index in range(width)]
    for level in range(1, depth):
        layer = [
            Zero(index=level * width + i, reads=(layer[i], layer[(i + 1) % width]))
            for i in range(width)
        ]
    return layer


def run(store: str, tops: list[Zero], workers: int) -> tuple[float, Usage, float]:
    """Seconds of one graph, what the broker used for it, and processor seconds of the workers."""
    execution = Execution(store=store, shape=GangShape(), max_light_workers=workers)
    with start_broker(execution) as client:
        client.request([Zero(index=-1 - i) for i in range(2 * workers)])
        before, before_workers = usage("ray::StageBroker"), usage("ray::LightWorker")
        started = time.perf_counter()
        client.request(tops)
        seconds = time.perf_counter() - started
        used = usage("ray::StageBroker").since(before)
        workers_s = usage("ray::LightWorker").since(before_workers).cpu_s
    return seconds, used, workers_s


def main() -> None:
    """Run the graph several times and print."""
    parser = argparse.ArgumentParser(description="Stages without work through the broker.")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--stages", type=int, default=10_000, help="stages of the graph")
    parser.add_argument("--depth", type=int, default=6, help="layers of the graph")
    parser.add_argument("--runs", type=int, default=5, help="times it is run")
    parser.add_argument("--workers", type=int, default=2, help="light workers")
    arguments = parser.parse_args()
    tops = layers(arguments.stages, arguments.depth)
    count = len(tops) * arguments.depth
    rates, brokers, workers = [], [], []
    with tempfile.TemporaryDirectory() as folder, cluster.connected():
        for number in range(arguments.runs):
            seconds, broker, workers_s = run(f"{folder}/{number}", tops, arguments.workers)
            rates.append(count / seconds)
            brokers.append(broker)
            workers.append(workers_s)
    cpu_s = statistics.median(b.cpu_s + w for b, w in zip(brokers, workers, strict=True))
    result = {
        "stages_per_s": statistics.median(rates),
        "stages_per_s_min": min(rates),
        "stages_per_cpu_s": count / cpu_s,
        "broker_cpu_ms_per_stage": 1000 * statistics.median(b.cpu_s for b in brokers) / count,
        "workers_cpu_ms_per_stage": 1000 * statistics.median(workers) / count,
        "broker_memory_mb": statistics.median(b.memory_mb for b in brokers),
        "stages": count,
        "depth": arguments.depth,
        "runs": arguments.runs,
        "workers": arguments.workers,
        "cpus": os.cpu_count(),
    }
    table = Table(title="stages without work", title_justify="left")
    table.add_column("")
    table.add_column("median", justify="right")
    for name, value in result.items():
        table.add_row(
            name.replace("_", " "), f"{value:,.2f}" if isinstance(value, float) else str(value)
        )
    Console().print(table)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
