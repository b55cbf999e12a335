"""The pool's side of a gang, with this test in the place of the workers."""

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from sweeps import failures, gang
from sweeps.board import Board
from sweeps.claims import granted
from sweeps.gang import Gang, GangPool, Order
from sweeps.resources import Execution, GangShape
from sweeps.settling import Settling
from sweeps.store import ArtifactStore
from sweeps.worker import Outcome
from sweeps.worker import failed as outcome_of
from tests.toys import Sum
from w2s.training import distributed

NODES = [{"CPU": 2.0}]


class Bench:
    """A pool on a board, whose gangs wait in a thread until the test lets them end."""

    def __init__(self, execution: Execution) -> None:
        self.board = Board()
        self.execution = execution
        self.release = threading.Event()
        self.errors: list[Exception] = []
        """What the next gangs that end raise."""
        settling = Settling(
            self.board, ArtifactStore(execution.store), asyncio.ensure_future, self.schedule
        )
        self.pool = GangPool(
            self.board,
            execution,
            None,
            self.schedule,
            None,
            claim=granted,
            settle=settling.settle,
            lost=settling.lost,
        )

    def schedule(self) -> None:
        self.pool.schedule(NODES, [])

    def run_gang(self, work: Callable[..., None], **options: object) -> None:
        self.release.wait(10)
        if self.errors:
            self.release.clear()
            raise self.errors.pop(0)

    def state(self, stage: Sum) -> str:
        return self.board.nodes[stage.key].state

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.01)

    @property
    def gang(self) -> Gang:
        (only,) = self.pool.gangs.values()
        return only

    async def joined(self, num_workers: int = 1) -> list[Order]:
        """What the workers of the only gang are told first."""
        return list(
            await asyncio.gather(
                *(self.pool.next_order(self.gang.id, rank, 0, None) for rank in range(num_workers))
            )
        )

    async def dies_of(self, error: Exception) -> None:
        """The only gang ends; wait until another one is there or none is wanted."""
        before = self.gang
        self.errors.append(error)
        self.release.set()
        await self.until(lambda: before.id not in self.pool.gangs)


def bench(
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[Bench], Awaitable[None]],
    shape: GangShape,
    **options: float,
) -> None:
    """Run a script with two CPUs and gangs of a shape."""

    async def main() -> None:
        bench = Bench(Execution(store=store, shape=shape, **options))  # pyright: ignore
        monkeypatch.setattr(distributed, "run_gang", bench.run_gang)
        try:
            await asyncio.wait_for(script(bench), 10)
        finally:
            bench.release.set()

    monkeypatch.setattr(failures, "PAUSE_S", 0.0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as store:
        asyncio.run(main())


def failed(stage: Sum) -> Outcome:
    return outcome_of(stage, ArithmeticError("no"))


def worker_died(error: Exception) -> WorkerGroupError:
    """As Ray Train tells it."""
    return WorkerGroupError("rank 0", {0: WorkerHealthCheckFailedError("no answer", error)})


def test_both_workers_get_the_stage_and_a_shared_failure_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(bench: Bench) -> None:
        first, second = Sum(tag="first", work=2.0), Sum(tag="second", work=1.0)
        bench.board.add([first, second], present=set(), execution=bench.execution)
        bench.schedule()
        assert await bench.joined(2) == [Order("run", 1, first)] * 2
        number = bench.gang.id
        lead = asyncio.ensure_future(bench.pool.next_order(number, 0, 1, failed(first)))
        await asyncio.sleep(0.01)
        assert bench.state(first) == "running"
        assert not lead.done()
        order = await bench.pool.next_order(number, 1, 1, failed(first))
        assert bench.state(first) == "failed"
        assert order == Order("run", 2, second)
        assert await lead == Order("run", 2, second)

    bench(monkeypatch, script, GangShape(num_workers=2))


def test_worker_that_fails_alone_fails_the_stage_and_ends_the_gang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gang, "PARTNER_GRACE_S", 0.0)

    async def script(bench: Bench) -> None:
        stage = Sum(tag="first")
        bench.board.add([stage], present=set(), execution=bench.execution)
        bench.schedule()
        await bench.joined(2)
        assert await bench.pool.next_order(bench.gang.id, 1, 1, failed(stage)) == Order("break")
        assert bench.state(stage) == "failed"
        assert bench.gang.stopping

    bench(monkeypatch, script, GangShape(num_workers=2))


def test_error_of_one_worker_counts_more_than_its_echo_in_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(bench: Bench) -> None:
        stage = Sum(tag="first")
        bench.board.add([stage], present=set(), execution=bench.execution)
        bench.schedule()
        await bench.joined(2)
        echo = outcome_of(stage, RuntimeError("gloo: Connection closed by peer [127.0.0.1]:1"))
        waiting = [
            asyncio.ensure_future(bench.pool.next_order(bench.gang.id, rank, 1, outcome))
            for rank, outcome in enumerate((echo, failed(stage)))
        ]
        await bench.until(lambda: bench.state(stage) == "failed")
        failure = bench.board.nodes[stage.key].failure
        assert failure is not None
        assert failure.cause == "ArithmeticError: no"
        for order in waiting:
            order.cancel()

    bench(monkeypatch, script, GangShape(num_workers=2))


def test_lost_connection_to_a_worker_that_died_does_not_fail_the_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(bench: Bench) -> None:
        stage = Sum(tag="first")
        bench.board.add([stage], present=set(), execution=bench.execution)
        bench.schedule()
        await bench.joined(2)
        echo = outcome_of(stage, RuntimeError("gloo: Connection closed by peer [127.0.0.1]:1"))
        waiting = asyncio.ensure_future(bench.pool.next_order(bench.gang.id, 0, 1, echo))
        await asyncio.sleep(0.01)
        await bench.dies_of(worker_died(ActorDiedError()))
        assert bench.state(stage) == "planned"
        assert await waiting == Order("stop")

    bench(monkeypatch, script, GangShape(num_workers=2))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (worker_died(ActorDiedError()), "its process ended"),
        (worker_died(OutOfMemoryError("node is low on memory")), "the machine ran out of memory"),
        (ActorDiedError(), "its process ended"),
    ],
)
def test_stage_of_a_gang_that_died_runs_again_until_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    async def script(bench: Bench) -> None:
        stage = Sum(tag="deadly")
        bench.board.add([stage], present=set(), execution=bench.execution)
        bench.schedule()
        old = bench.gang.id
        assert (await bench.joined())[0].stage == stage
        await bench.dies_of(error)
        await bench.until(lambda: len(bench.pool.gangs) == 1)
        assert await bench.pool.next_order(old, 0, 1, failed(stage)) == Order("stop")
        assert (await bench.joined())[0].stage == stage
        assert bench.state(stage) == "running"
        await bench.dies_of(error)
        assert bench.state(stage) == "failed"
        failure = bench.board.nodes[stage.key].failure
        assert failure is not None
        assert failure.cause.startswith(f"WorkerDied: {words}")
        assert failure.cause.endswith("(attempt 2, the last one)")

    bench(monkeypatch, script, GangShape(), retries=1)


def test_error_that_may_go_away_is_tried_again_and_another_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(bench: Bench) -> None:
        unlucky, wrong = Sum(tag="unlucky", work=2.0), Sum(tag="wrong")
        bench.board.add([unlucky, wrong], present=set(), execution=bench.execution)
        bench.schedule()
        assert (await bench.joined())[0].stage == unlucky
        gang_id = bench.gang.id
        away = outcome_of(unlucky, ConnectionResetError("the hub is away"))
        order = await bench.pool.next_order(gang_id, 0, 1, away)
        assert order.stage == unlucky
        order = await bench.pool.next_order(gang_id, 0, 2, away)
        assert bench.state(unlucky) == "failed"
        assert order.stage == wrong
        last = asyncio.ensure_future(bench.pool.next_order(gang_id, 0, 3, failed(wrong)))
        await bench.until(lambda: bench.state(wrong) == "failed")
        assert bench.board.nodes[wrong.key].attempts == 1
        last.cancel()

    bench(monkeypatch, script, GangShape(), retries=1, max_gangs=1)


def test_gangs_are_bounded_by_the_cluster_and_by_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        bench.board.add([Sum(tag="a")], present=set(), execution=bench.execution)
        bench.schedule()
        bench.schedule()
        assert len(bench.pool.gangs) == 1
        stages = [Sum(tag=str(i)) for i in range(5)]
        bench.board.add(stages, present=set(), execution=bench.execution)
        bench.schedule()
        assert len(bench.pool.gangs) == 2

    bench(monkeypatch, script, GangShape())


def test_idle_gang_ends_when_nothing_is_left_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        stage = Sum(tag="a")
        number = bench.board.add([stage], present=set(), execution=bench.execution)
        bench.schedule()
        bench.board.release(number)
        order = asyncio.ensure_future(bench.pool.next_order(bench.gang.id, 0, 0, None))
        await asyncio.sleep(0.01)
        bench.schedule()
        assert await order == Order("stop")
        bench.release.set()
        await bench.until(lambda: not bench.pool.gangs)

    bench(monkeypatch, script, GangShape(), gang_idle_s=-1.0)


def test_training_is_given_up_when_gangs_never_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        bench.errors = [RuntimeError("no worker")] * gang.MAX_FAILED_STARTS
        stage = Sum(tag="a")
        number = bench.board.add([stage], present=set(), execution=bench.execution)
        bench.schedule()
        while bench.state(stage) == "planned":
            bench.release.set()
            await asyncio.sleep(0.01)
        failure = bench.board.requests[number].failure
        assert failure is not None
        assert failure.cause == "GangFailed: workers do not start: no worker"

    bench(monkeypatch, script, GangShape())


def test_gang_that_finds_no_room_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        stage = Sum(tag="a")
        bench.board.add([stage], present=set(), execution=bench.execution)
        bench.schedule()
        for _ in range(gang.MAX_FAILED_STARTS + 1):
            await bench.dies_of(ControllerError(WorkerGroupStartupTimeoutError(1)))
            await bench.until(lambda: len(bench.pool.gangs) == 1)
        assert (await bench.joined())[0].stage == stage

    bench(monkeypatch, script, GangShape())


def test_what_ready_stages_wait_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        bench.board.add([Sum(tag=str(i)) for i in range(3)], set(), bench.execution)
        assert bench.pool.turn == "a free worker group"
        bench.schedule()  # two gangs start, a third has no room
        assert bench.pool.turn == "room for 1 worker(s) with 1 CPU, 0 GPU each"

    async def one(bench: Bench) -> None:
        bench.board.add([Sum(tag="a")], set(), bench.execution)
        bench.schedule()
        assert bench.pool.turn == "a worker group, which starts"

    bench(monkeypatch, script, GangShape())
    bench(monkeypatch, one, GangShape())
