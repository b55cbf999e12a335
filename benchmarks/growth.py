"""How the cost of a sweep grows with its trials and with the workers of the cluster.

    python benchmarks/growth.py [--json] [--trials 10 100 1000] [--workers 1 4 16 64] [--runs 5]

Trials: callers of the broker, 16 at a time, as the trials of Ray Tune are; each asks for seven
stages without work, of which two are shared by ten trials each. Light workers run them.

Workers: a simulated gang is one process that takes stages from the broker as a gang does, without
Ray Train and torch, so that many fit on one machine. There are as many stages as workers, ten times
over; each sleeps for a second. What the makespan has more than ten seconds is overhead.

Broker, store and Ray cluster are those of a sweep, new in every run. Where makespans grow faster
than the work, look at the processor seconds: on few cores the simulated workers share them with
the broker.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import ray
from idle_stages import Sleep, Usage, Zero, usage
from rich.console import Console
from rich.table import Table

from sweeps import cluster
from sweeps.broker import StageBroker, start_broker
from sweeps.client import NAMESPACE, BrokerClient
from sweeps.resources import Execution, GangShape
from sweeps.store import ArtifactStore
from sweeps.worker import Outcome, run_stage
from w2s.stages.base import Stage

CONCURRENT_TRIALS = 16
"""As `w2s run` has them at most."""
TRIALS_A_SHARED_STAGE = 10
STAGES_A_WORKER = 10
SLEEP_S = 1.0


class Cost(NamedTuple):
    """What one run took."""

    number: int
    """Trials, or workers."""
    stages: int
    """Stages that ran."""
    makespan_s: float
    """Seconds from the first request to the last answer."""
    ideal_s: float
    """Seconds that the stages' own work would take on these workers."""
    broker: Usage
    """What the broker used."""

    @property
    def overhead_ms(self) -> float:
        """Milliseconds of the makespan that are not the stages' own work, per stage."""
        return 1000 * (self.makespan_s - self.ideal_s) / self.stages


def trial(number: int) -> list[Stage]:
    """What a trial asks for: two evaluations, of a student of its own and of a shared model."""
    shared = Zero(index=number // TRIALS_A_SHARED_STAGE)
    label = Zero(index=number, reads=(shared,))
    student = Zero(index=number, reads=(label,))
    probe = Zero(index=-1 - number, reads=(label,))
    ends = tuple(Zero(index=-1 - number, reads=(each,)) for each in (student, probe))
    return [*ends, Zero(index=10**6 + number // TRIALS_A_SHARED_STAGE, reads=(shared,))]


def with_trials(number: int, root: str) -> Cost:
    """One run with this many trials."""
    with start_broker(Execution(store=root, shape=GangShape())) as client:

        def ask(index: int) -> None:
            BrokerClient(client.name, client.driver).request(trial(index))

        client.request([Zero(index=10**6 + i) for i in range(4)])
        before = usage("ray::StageBroker")
        started = time.perf_counter()
        with ThreadPoolExecutor(CONCURRENT_TRIALS) as pool:
            list(pool.map(ask, range(number)))
        makespan_s = time.perf_counter() - started
        used = usage("ray::StageBroker").since(before)
    shared = -(-number // TRIALS_A_SHARED_STAGE)
    return Cost(number, 5 * number + 2 * shared, makespan_s, 0.0, used)


class SimulatedBroker(StageBroker):
    """The broker of a sweep, whose gangs are `SimulatedWorker`s."""

    def __init__(self, name: str, store: str) -> None:
        """See `StageBroker`."""
        from w2s.training import distributed

        distributed.run_gang = run_simulated
        super().__init__(name, store)

    async def next_stage(
        self, gang: int, last: int, outcome: Outcome | None
    ) -> tuple[int, Stage | None]:
        """The next order in a form that loads nothing of Ray Train."""
        order = await self.next_order(gang, 0, last, outcome)
        return order.number, order.stage

    async def num_idle(self) -> int:
        """Gangs that wait for a stage."""
        return sum(gang.is_idle for pool in self._pools for gang in pool.gangs.values())


class SimulatedWorker:
    """A worker that is a gang of its own."""

    def run(self, broker: Any, gang: int, store: str) -> None:
        """Take stages until there are none."""
        artifacts = ArtifactStore(store)
        number, outcome = 0, None
        while True:
            order: Any = ray.get(broker.next_stage.remote(gang, number, outcome))
            number, stage = order
            if stage is None:
                return
            outcome = run_stage(stage, artifacts)


def run_simulated(work: Any, **options: object) -> None:
    """What stands for `run_gang` in the broker's process."""
    execution = work.keywords["execution"]
    worker = cast(Any, ray).remote(num_cpus=0)(SimulatedWorker).remote()
    ray.get(worker.run.remote(work.keywords["broker"], work.keywords["gang"], execution.store))


def with_workers(number: int, root: str) -> Cost:
    """One run with this many workers."""
    execution = Execution(store=root, shape=GangShape(), gang_idle_s=60.0)
    with start_broker(execution, SimulatedBroker) as client:
        broker = ray.get_actor(client.name, namespace=NAMESPACE)
        # A gang is started for each of these; those that come late find nothing to do.
        client.request([Sleep(index=-1 - i, seconds=SLEEP_S) for i in range(number)])
        idle: Any = 0
        while idle < number:
            time.sleep(0.1)
            idle = ray.get(broker.num_idle.remote())
        count = STAGES_A_WORKER * number
        before = usage("ray::SimulatedBroker")
        started = time.perf_counter()
        client.request([Sleep(index=i, seconds=SLEEP_S) for i in range(count)])
        makespan_s = time.perf_counter() - started
        used = usage("ray::SimulatedBroker").since(before)
    return Cost(number, count, makespan_s, STAGES_A_WORKER * SLEEP_S, used)


def measured(
    run: Callable[[int, str], Cost], numbers: list[int], runs: int, cpus: bool
) -> list[Cost]:
    """The run of median makespan for each number."""
    found = []
    for number in numbers:
        # Each worker counts as a CPU of the cluster, whatever the machine has.
        connection = cluster.connect(num_cpus=number if cpus else None)
        try:
            with tempfile.TemporaryDirectory() as folder:
                costs = [run(number, f"{folder}/{i}") for i in range(runs)]
        finally:
            cluster.disconnect(connection)
        costs.sort(key=lambda cost: cost.makespan_s)
        found.append(costs[len(costs) // 2])
    return found


def table(title: str, first: str, costs: list[Cost]) -> Table:
    """Costs, a line a number."""
    shown = Table(title=title, title_justify="left")
    for name in (
        first,
        "stages",
        "makespan s",
        "ideal s",
        "overhead ms / stage",
        "broker CPU ms / stage",
        "broker MB",
    ):
        shown.add_column(name, justify="right")
    for cost in costs:
        shown.add_row(
            str(cost.number),
            str(cost.stages),
            f"{cost.makespan_s:.2f}",
            f"{cost.ideal_s:.1f}",
            f"{cost.overhead_ms:.2f}",
            f"{1000 * cost.broker.cpu_s / cost.stages:.2f}",
            f"{cost.broker.memory_mb:.0f}",
        )
    return shown


def as_json(costs: list[Cost]) -> list[dict[str, float]]:
    """The rows of a table."""
    return [
        {
            "number": cost.number,
            "stages": cost.stages,
            "makespan_s": cost.makespan_s,
            "ideal_s": cost.ideal_s,
            "overhead_ms_per_stage": cost.overhead_ms,
            "broker_cpu_ms_per_stage": 1000 * cost.broker.cpu_s / cost.stages,
            "broker_memory_mb": cost.broker.memory_mb,
        }
        for cost in costs
    ]


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description="Cost against trials and against workers.")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--trials", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--runs", type=int, default=5, help="runs of each")
    arguments = parser.parse_args()
    trials = measured(with_trials, arguments.trials, arguments.runs, cpus=False)
    workers = measured(with_workers, arguments.workers, arguments.runs, cpus=True)
    console = Console()
    console.print(table("trials of seven stages without work", "trials", trials))
    console.print(table("simulated gangs with stages of a second", "workers", workers))
    result: dict[str, Any] = {
        "trials": as_json(trials),
        "workers": as_json(workers),
        "runs": arguments.runs,
        "cpus": os.cpu_count(),
    }
    for name, costs in (("trials", trials), ("workers", workers)):
        if len(costs) > 1:
            per_stage = [cost.broker.cpu_s / cost.stages for cost in costs]
            result[f"broker_cpu_growth_{name}"] = per_stage[-1] / statistics.median(per_stage)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
