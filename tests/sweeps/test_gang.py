"""The pool's side of a gang, with this test in the place of the workers."""

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable

import pytest

from sweeps import gang
from sweeps.board import Board
from sweeps.gang import GangPool, Order
from sweeps.resources import Execution, GangShape
from sweeps.worker import Outcome
from tests.toys import Sum

NODES = [{"CPU": 2.0}]


class Bench:
    """A pool on a board, whose gangs wait in a thread until the test lets them end."""

    def __init__(self, execution: Execution) -> None:
        self.board = Board()
        self.execution = execution
        self.release = threading.Event()
        self.error: Exception | None = None
        self.pool = GangPool(self.board, execution, None, self.schedule, None)

    def schedule(self) -> None:
        self.pool.schedule(NODES, [])

    def run_gang(self, work: Callable[..., None], **options: object) -> None:
        self.release.wait(10)
        if self.error is not None:
            raise self.error

    def state(self, stage: Sum) -> str:
        return self.board.nodes[stage.key].state


def bench(
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[Bench], Awaitable[None]],
    shape: GangShape,
    **options: float,
) -> None:
    """Run a script with two CPUs and gangs of a shape."""

    async def main() -> None:
        bench = Bench(Execution(store=store, shape=shape, **options))  # pyright: ignore
        monkeypatch.setattr(gang, "run_gang", bench.run_gang)
        try:
            await asyncio.wait_for(script(bench), 10)
        finally:
            bench.release.set()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as store:
        asyncio.run(main())


def failed(stage: Sum) -> Outcome:
    return Outcome(stage.key, cause="ArithmeticError: no")


def test_both_workers_get_the_stage_and_a_shared_failure_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(bench: Bench) -> None:
        first, second = Sum(tag="first", work=2.0), Sum(tag="second", work=1.0)
        bench.board.add([first, second], set(), bench.execution)
        bench.schedule()
        orders = await asyncio.gather(*(bench.pool.next_order(1, "g", r, 0, None) for r in (0, 1)))
        assert orders == [Order("run", 1, first)] * 2
        lead = asyncio.ensure_future(bench.pool.next_order(1, "g", 0, 1, failed(first)))
        await asyncio.sleep(0.01)
        assert bench.state(first) == "failed"
        assert not lead.done()
        assert await bench.pool.next_order(1, "g", 1, 1, failed(first)) == Order("run", 2, second)
        assert await lead == Order("run", 2, second)

    bench(monkeypatch, script, GangShape(num_workers=2))


def test_worker_that_fails_alone_makes_the_group_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang, "PARTNER_GRACE_S", 0.0)

    async def script(bench: Bench) -> None:
        stage = Sum(tag="first")
        bench.board.add([stage], set(), bench.execution)
        bench.schedule()
        await asyncio.gather(*(bench.pool.next_order(1, "g", rank, 0, None) for rank in (0, 1)))
        order = await bench.pool.next_order(1, "g", 1, 1, failed(stage))
        assert order == Order("restart")
        assert bench.state(stage) == "failed"

    bench(monkeypatch, script, GangShape(num_workers=2))


def test_restarted_group_gets_the_stage_again_until_it_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(bench: Bench) -> None:
        stage = Sum(tag="deadly")
        bench.board.add([stage], set(), bench.execution)
        bench.schedule()
        assert (await bench.pool.next_order(1, "one", 0, 0, None)).stage == stage
        assert (await bench.pool.next_order(1, "two", 0, 0, None)).stage == stage
        assert await bench.pool.next_order(1, "one", 0, 1, failed(stage)) == Order("stop")
        assert bench.state(stage) == "running"
        waiting = asyncio.ensure_future(bench.pool.next_order(1, "three", 0, 0, None))
        await asyncio.sleep(0.01)
        assert bench.state(stage) == "failed"
        failure = bench.board.nodes[stage.key].failure
        assert failure is not None
        assert "died 2 times" in failure.cause
        waiting.cancel()

    bench(monkeypatch, script, GangShape(), retries=1)


def test_gangs_are_bounded_by_the_cluster_and_by_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        bench.board.add([Sum(tag="a")], set(), bench.execution)
        bench.schedule()
        bench.schedule()
        assert len(bench.pool.gangs) == 1
        bench.board.add([Sum(tag=str(i)) for i in range(5)], set(), bench.execution)
        bench.schedule()
        assert len(bench.pool.gangs) == 2

    bench(monkeypatch, script, GangShape())


def test_idle_gang_ends_when_nothing_is_left_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        stage = Sum(tag="a")
        number = bench.board.add([stage], set(), bench.execution)
        bench.schedule()
        bench.board.release(number)
        order = asyncio.ensure_future(bench.pool.next_order(1, "g", 0, 0, None))
        await asyncio.sleep(0.01)
        bench.schedule()
        assert await order == Order("stop")
        bench.release.set()
        while bench.pool.gangs:
            await asyncio.sleep(0.01)

    bench(monkeypatch, script, GangShape(), gang_idle_s=-1.0)


def test_training_is_given_up_when_gangs_never_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(bench: Bench) -> None:
        bench.error = RuntimeError("no worker")
        bench.release.set()
        stage = Sum(tag="a")
        number = bench.board.add([stage], set(), bench.execution)
        bench.schedule()
        while bench.state(stage) == "planned":
            await asyncio.sleep(0.01)
        failure = bench.board.requests[number].failure
        assert failure is not None
        assert failure.cause == "GangFailed: workers do not start: no worker"

    bench(monkeypatch, script, GangShape())
