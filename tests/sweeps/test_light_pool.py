"""Which light stages go to a process together, and what happens when it dies."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from ray.exceptions import RayActorError

from sweeps.board import Board
from sweeps.claims import granted
from sweeps.events import StageRecord
from sweeps.light_pool import MAX_BATCH, LightPool
from sweeps.nodes import Node
from sweeps.resources import Execution, GangShape
from sweeps.worker import Outcome
from tests.toys import Number
from w2s.stages.base import Stage

HERE = Execution(store="store", shape=GangShape())
POISON = 666


class Bench:
    """A pool whose processes take `seconds` a stage, and die of the number 666."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, max_workers: int) -> None:
        self.board = Board(clock=lambda: 0.0)
        self.seconds = seconds
        self.batches: list[list[int]] = []
        self.lost: list[int] = []
        self.run = self  # so that `worker.run.remote(...)` comes here
        self.pool = LightPool(
            self.board,
            "store",
            None,
            max_workers=max_workers,
            on_change=lambda: self.pool.schedule(),
            spawn=self.spawn,
            claim=granted,
            settle=self.settle,
            lost=self.lose,
        )
        monkeypatch.setattr(self.pool, "_new_worker", lambda: self)

    async def remote(self, stages: Sequence[Any], timeout_s: float | None) -> list[Outcome]:
        self.batches.append([stage.value for stage in stages])
        await asyncio.sleep(0)
        if any(stage.value == POISON for stage in stages):
            raise RayActorError
        return [Outcome(stage.key, self.record(stage)) for stage in stages]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(work)

    def record(self, stage: Stage) -> StageRecord:
        return StageRecord(stage.key, stage.name, stage.kind, {}, 0.0, self.seconds, "here")

    def settle(self, outcome: Outcome) -> None:
        assert outcome.record is not None
        self.board.finish(outcome.key, outcome.record)

    def lose(self, node: Node, error: BaseException) -> None:
        assert isinstance(node.stage, Number)
        self.lost.append(node.stage.value)
        self.board.fail(node.stage.key, "died")


def ran(
    monkeypatch: pytest.MonkeyPatch, values: Sequence[int], seconds: float, max_workers: int = 1
) -> Bench:
    """What a pool does with numbers."""

    async def main() -> Bench:
        bench = Bench(monkeypatch, seconds, max_workers)
        bench.board.add([Number(value=value) for value in values], set(), HERE)
        bench.pool.schedule()
        while bench.board.num_planned("light") or bench.board.snapshot().running:
            await asyncio.sleep(0)
        return bench

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_short_stages_go_together_once_it_is_known_that_they_are_short(monkeypatch):
    bench = ran(monkeypatch, range(1 + MAX_BATCH + 5), seconds=0.0001)
    assert list(map(len, bench.batches)) == [1, MAX_BATCH, 5]
    assert [value for batch in bench.batches for value in batch] == list(range(1 + MAX_BATCH + 5))


def test_stages_of_a_tenth_of_a_second_go_in_twos_and_long_ones_alone(monkeypatch):
    # 0.102 s each with what they cost beside their work: two fit into a quarter of a second.
    assert ran(monkeypatch, range(6), seconds=0.1).batches == [[0], [1, 2], [3, 4], [5]]
    assert ran(monkeypatch, range(3), seconds=1.0).batches == [[0], [1], [2]]


def test_processes_share_what_is_ready(monkeypatch):
    bench = ran(monkeypatch, range(12), seconds=0.0001, max_workers=2)
    assert bench.batches[:2] == [[0], [1]]
    assert sorted(map(len, bench.batches[2:])) == [1, 1, 3, 5]


def test_stage_that_kills_its_process_is_found_and_the_others_of_its_batch_run(monkeypatch):
    bench = ran(monkeypatch, [0, 1, POISON, 2], seconds=0.0001)
    assert bench.batches == [[0], [1, POISON, 2], [1], [POISON], [2]]
    assert bench.lost == [POISON]
    states = {node.stage.name: node.state for node in bench.board.nodes.values()}
    assert states == {
        "number 0": "done",
        "number 1": "done",
        "number 666": "failed",
        "number 2": "done",
    }
