"""What the broker does with the end of an attempt, without processes."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from sweeps.board import Board
from sweeps.resources import Execution, GangShape
from sweeps.settling import Settling
from sweeps.store import ArtifactStore
from sweeps.worker import Outcome, run_stage
from tests.toys import Number, Sum


class Clock:
    """Time that stands still unless it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A board whose stages the test runs itself."""

    def __init__(self, store: ArtifactStore, retries: int = 2) -> None:
        self.clock = Clock()
        self.store = store
        self.board = Board(self.clock)
        self.execution = Execution(store=store.root, shape=GangShape(), retries=retries)
        self.tasks: list[Coroutine[Any, Any, None]] = []
        self.settling = Settling(self.board, store, self.tasks.append, lambda: None)

    def ask(self, stage: Sum | Number) -> None:
        present = self.store.present(self.board.unknown([stage]))
        self.board.add([stage], present, self.execution)

    def attempt(self, stage: Sum | Number) -> Outcome:
        self.board.start(stage.key)
        outcome = run_stage(stage, self.store)
        self.settling.settle(outcome)
        for task in self.tasks:
            asyncio.run(_awaited(task))
        self.tasks.clear()
        return outcome

    def state(self, stage: Sum | Number) -> str:
        return self.board.nodes[stage.key].state


async def _awaited(task: Coroutine[Any, Any, None]) -> None:
    await task


def test_damaged_input_is_made_again_and_then_the_stage_that_found_it(
    store: ArtifactStore,
) -> None:
    source = Number(value=7)
    assert run_stage(source, store).record is not None
    whole = (store.local(source) / "number.json").read_bytes()
    (store.local(source) / "number.json").write_bytes(whole[:-1] + b"!")
    # Another process, which has not read the file yet.
    fresh = ArtifactStore(store.root)
    desk = Desk(fresh)
    reader = Sum(inputs_=(source,), tag="reader")
    desk.ask(reader)
    assert desk.state(source) == "cached"
    assert desk.attempt(reader).damaged == source.key
    assert (desk.state(source), desk.state(reader)) == ("planned", "planned")
    assert [node.stage for node in desk.board.ready("train")] == []
    assert len(list((Path(fresh.root) / ".broken").iterdir())) == 1
    desk.attempt(source)
    assert [node.stage for node in desk.board.ready("train")] == [reader]
    desk.attempt(reader)
    assert (desk.state(source), desk.state(reader)) == ("done", "done")


def test_pauses_between_attempts_grow_and_then_the_stage_fails(store: ArtifactStore) -> None:
    desk = Desk(store)
    stage = Sum(tag="unlucky")
    desk.ask(stage)
    away = Outcome(stage.key, cause="ConnectionError: away", retry=True)
    for pause_s in (2.0, 8.0):
        desk.board.start(stage.key)
        desk.settling.settle(away)
        assert desk.board.ready("train") == []
        desk.clock.now += pause_s - 0.1
        assert desk.board.ready("train") == []
        desk.clock.now += 0.1
        assert [node.stage for node in desk.board.ready("train")] == [stage]
    desk.board.start(stage.key)
    desk.settling.settle(away)
    failure = desk.board.nodes[stage.key].failure
    assert failure is not None
    assert failure.cause == "ConnectionError: away (attempt 3, the last one)"


@pytest.mark.parametrize("retries", [0, 5])
def test_error_of_the_stage_itself_fails_it_at_once(store: ArtifactStore, retries: int) -> None:
    desk = Desk(store, retries)
    stage = Number(value=1, fails=True)
    desk.ask(stage)
    desk.attempt(stage)
    assert desk.state(stage) == "failed"
    failure = desk.board.nodes[stage.key].failure
    assert failure is not None
    assert failure.cause == "ArithmeticError: no number 1"


def test_failure_reaches_only_what_needs_the_stage(store: ArtifactStore) -> None:
    desk = Desk(store)
    broken, good = Number(value=1, fails=True), Number(value=2)
    needs, other = Sum(inputs_=(broken, good), tag="needs"), Sum(inputs_=(good,), tag="other")
    desk.ask(needs)
    desk.ask(other)
    desk.attempt(broken)
    desk.attempt(good)
    desk.attempt(other)
    assert [desk.state(stage) for stage in (broken, needs, good, other)] == [
        "failed",
        "cancelled",
        "done",
        "done",
    ]
    assert desk.board.requests[0].failure is not None
    assert desk.board.requests[1].failure is None


def test_machine_that_was_taken_back_costs_no_attempt(store: ArtifactStore) -> None:
    from ray.exceptions import ActorDiedError

    taken = ActorDiedError()
    taken._preempted = True
    desk = Desk(store, retries=1)
    stage = Sum(tag="evicted")
    desk.ask(stage)
    for _ in range(3):
        desk.board.start(stage.key)
        desk.settling.lost(desk.board.nodes[stage.key], taken)
        assert desk.state(stage) == "planned"
        desk.clock.now += 60
    desk.board.start(stage.key)
    desk.settling.lost(desk.board.nodes[stage.key], ActorDiedError())
    assert desk.state(stage) == "planned"
