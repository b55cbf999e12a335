"""The pool of served models on a cluster of two CPUs that is played by the test, step by step."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel
from ray.exceptions import ActorDiedError, RayTaskError

from serving.errors import DeploymentFailed, ServingInputError
from serving.models import Placement
from sweeps.admission import GangUse, fits
from sweeps.board import Board
from sweeps.claims import granted
from sweeps.events import StageRecord
from sweeps.gang import Shortage
from sweeps.placements import check_models_fit
from sweeps.resources import Execution, GangShape, Resources
from sweeps.servable import served_key
from sweeps.serve_pool import ServePool
from sweeps.settling import Settling
from sweeps.store import ArtifactStore
from sweeps.worker import Outcome
from tests.toys import Chat, Number, Sum
from w2s.errors import UserError
from w2s.stages.base import Stage

NODES: list[Resources] = [{"CPU": 2.0}]
STEP_S = 10.0
WHOLE = Placement(num_cpus=2)
"""Of a model that leaves no room for anything else."""
EXECUTION = Execution(store="unused", shape=GangShape(), placement=WHOLE, max_serve_stages=2)
MODELS = [Number(value=number) for number in range(3)]


class Method:
    """What a handle's method looks like."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        self.remote = lambda *arguments: asyncio.ensure_future(function(*arguments))


class World:
    """Board, pool, a host and gangs that take as many steps as the test says."""

    def __init__(self, tmp_path: Any, execution: Execution = EXECUTION) -> None:
        self.execution = execution
        self.now = 0.0
        self.board = Board(clock=lambda: self.now)
        self.tasks: set[asyncio.Task[None]] = set()
        store = ArtifactStore(str(tmp_path / "store"))
        settling = Settling(self.board, store, self.spawn, self.changed)
        self.pool = ServePool(
            self.board,
            lambda: self,
            on_change=self.changed,
            spawn=self.spawn,
            claim=granted,
            settle=settling.settle,
            lost=settling.lost,
            turn_s=10 * STEP_S,
            clock=lambda: self.now,
        )
        self.up: dict[str, str] = {}
        self.log: list[str] = []
        self.starts: Counter[str] = Counter()
        self.errors: dict[str, list[Exception]] = {}
        """What the next starts of a model raise."""
        self.death: Exception | None = None
        self.steps: dict[asyncio.Future[None], int] = {}
        # The gangs: at most one, a stage of which takes three steps.
        self.gang: str | None = None
        self.gang_ends = False
        self.gang_since = 0.0
        self.shortage: Shortage | None = None

        self.run, self.cancel = Method(self._run), Method(self._cancel)
        self.bring_up, self.take_down = Method(self._bring_up), Method(self._take_down)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def changed(self) -> None:
        """Everything is looked at anew in each step."""

    def ask(self, *stages: Stage) -> int:
        present = {stage.key for stage in MODELS}
        return self.board.add(stages, present, self.execution)

    async def step(self) -> None:
        self.now += STEP_S
        for future in list(self.steps):
            self.steps[future] -= 1
            if self.steps[future] <= 0:
                del self.steps[future]
                if not future.done():
                    future.set_result(None)
        for _ in range(3):
            for _ in range(20):
                await asyncio.sleep(0)
            self.pool.schedule(NODES, [self])
            self._schedule_gang()
        assert fits(NODES, (), self._reserved()), f"more than there is: {self._reserved()}"

    async def until(self, condition: Callable[[], bool], steps: int = 300) -> None:
        for _ in range(steps):
            if condition():
                return
            await self.step()
        raise AssertionError(f"still not so: {self.log}")

    def state(self, stage: Stage) -> str:
        return self.board.nodes[stage.key].state

    def _reserved(self) -> list[Any]:
        gangs = [use.group for use in self.uses()]
        placements = [self.execution.placement_of(key) for key in self.up]
        return [*gangs, *((p.most_replicas, p.per_replica) for p in placements)]

    async def _wait(self, steps: int) -> None:
        future = asyncio.get_running_loop().create_future()
        self.steps[future] = steps
        await future
        if self.death is not None:
            raise self.death

    # The host

    async def _bring_up(self, model: Stage | BaseModel, execution: Execution) -> None:
        key = served_key(model)
        self.starts[key] += 1
        self.up[key] = "starting"
        await self._wait(4)
        if errors := self.errors.get(key):
            del self.up[key]
            error = errors.pop(0)
            raise RayTaskError("bring_up", "", error).as_instanceof_cause()
        self.up[key] = "up"

    async def _take_down(self, key: str) -> None:
        while self.up[key] == "starting":
            await self._wait(1)
        await self._wait(1)
        del self.up[key]

    async def _run(self, stage: Chat, execution: Execution) -> Outcome:
        assert all(self.up[model.key] == "up" for model in stage.served_models)
        self.log.append(stage.key)
        await self._wait(2)
        return Outcome(stage.key, record=record(stage))

    async def _cancel(self, key: str) -> None:
        raise AssertionError("not in these tests")

    # The gangs

    def uses(self) -> list[GangUse]:
        if self.gang is None:
            return []
        useless = self.gang == "idle" and not self.board.num_ready("train")
        return [GangUse(1, (1, {"CPU": 1.0}), self.gang_since, useless, self.gang_ends)]

    def end(self, gangs: Collection[int]) -> None:
        self.gang_ends = True

    def _schedule_gang(self) -> None:
        self.shortage = None
        if self.gang == "idle" and (self.gang_ends or not self.board.num_planned("train")):
            self.gang, self.gang_ends = None, False
        if self.gang is None and self.board.num_planned("train"):
            if fits(NODES, self.pool.taken, [(1, {"CPU": 1.0})]):
                self.gang, self.gang_since = "idle", self.now
            elif self.board.num_ready("train"):
                self.shortage = Shortage(GangShape(), is_starved=True)
        if self.gang == "idle" and not self.gang_ends:
            node = self.board.best("train")
            if node is not None:
                self.gang = node.stage.key
                self.board.start(node.stage.key)
                self.spawn(self._train(node.stage))

    async def _train(self, stage: Stage) -> None:
        await self._wait(3)
        self.log.append(stage.key)
        self.board.finish(stage.key, record(stage))
        self.gang = "idle"


def record(stage: Stage) -> StageRecord:
    return StageRecord(
        key=stage.key,
        name=stage.name,
        kind=stage.kind,
        identity={},
        started=0.0,
        finished=1.0,
        host="here",
        location="there",
        curve=(),
    )


def chats(model: Number, count: int, seed: int = 0) -> list[Chat]:
    return [Chat(model=model, fails_at=seed + number) for number in range(count)]


def test_three_models_of_which_one_fits_serve_all_and_each_starts_once(tmp_path: Any) -> None:
    async def script() -> None:
        world = World(tmp_path)
        stages = [chat for model in MODELS for chat in chats(model, 5)]
        number = world.ask(*stages)
        await world.until(lambda: world.board.is_settled(number))
        assert {world.state(stage) for stage in stages} == {"done"}
        assert set(world.starts.values()) == {1}
        await world.until(lambda: not world.up)

    asyncio.run(script())


def test_serving_and_training_take_turns_until_both_are_done(tmp_path: Any) -> None:
    async def script() -> None:
        world = World(tmp_path)
        trainings = [Sum(tag=str(number)) for number in range(30)]
        talks = [chat for model in MODELS for chat in chats(model, 20)]
        number = world.ask(*trainings, *talks)
        await world.until(lambda: world.board.is_settled(number), steps=1000)
        trained = {stage.key for stage in trainings}
        lanes = "".join("t" if key in trained else "s" for key in world.log)
        both = lanes[: min(lanes.rindex("s"), lanes.rindex("t"))]
        turns = len(both.replace("st", "s t").replace("ts", "t s").split())
        assert turns >= 5, f"few turns: {lanes}"
        # Three models and training go round. A turn is 10 steps or a little more: 4 trainings of 3
        # steps, or 12 talks of 2, 2 at a time.
        assert max(map(len, both.split("t"))) <= 3 * 12, f"training starved: {lanes}"
        assert max(map(len, both.split("s"))) <= 5, f"serving starved: {lanes}"
        # A model starts for a turn, not for a stage.
        assert max(world.starts.values()) <= 3

    asyncio.run(script())


def test_debate_of_two_models_waits_for_the_room_of_both_and_holds_neither(tmp_path: Any) -> None:
    class Duel(Chat):
        other: Number

        @property
        def served_models(self) -> tuple[Stage, ...]:
            assert self.model is not None
            return (self.model, self.other)

    half = replace(EXECUTION, placement=Placement(num_cpus=1))

    async def script() -> None:
        world = World(tmp_path, half)
        alone = chats(MODELS[0], 1)[0]
        pairs = [Duel(model=MODELS[i], other=MODELS[(i + 1) % 3], fails_at=i) for i in range(3)]
        world.ask(alone)
        await world.step()
        number = world.ask(*pairs)
        await world.until(lambda: world.board.is_settled(number))
        assert all(count <= 3 for count in world.starts.values())

    asyncio.run(script())


def test_a_model_wanted_later_gives_way_to_the_training_it_waits_for(tmp_path: Any) -> None:
    class Reads(Chat):
        source: Sum

    async def script() -> None:
        world = World(tmp_path)
        needed = Sum(tag="first")
        talk = Reads(model=MODELS[0], source=needed)
        blocker = chats(MODELS[0], 1)[0]
        world.ask(blocker)
        await world.until(lambda: world.state(blocker) == "done")
        number = world.ask(talk)
        await world.until(lambda: world.board.is_settled(number), steps=30)
        assert world.starts[MODELS[0].key] <= 2

    asyncio.run(script())


def test_model_that_does_not_start_frees_its_room_and_is_tried_again(tmp_path: Any) -> None:
    async def script() -> None:
        world = World(tmp_path)
        failing, fine = chats(MODELS[0], 1)[0], chats(MODELS[1], 1)[0]
        world.errors[MODELS[0].key] = [DeploymentFailed("it is not up after 9 s")]
        world.ask(failing, fine)
        await world.until(lambda: world.state(failing) == world.state(fine) == "done")
        assert world.starts[MODELS[0].key] == 2

    asyncio.run(script())


@pytest.mark.parametrize(
    ("errors", "attempts"),
    [([DeploymentFailed("no room")] * 3, 3), ([ServingInputError("head_dim 7")], 1)],
)
def test_model_that_never_starts_fails_its_stages_with_the_cause(
    tmp_path: Any, errors: list[Exception], attempts: int
) -> None:
    async def script() -> None:
        world = World(tmp_path)
        failing, fine = chats(MODELS[0], 1)[0], chats(MODELS[1], 1)[0]
        world.errors[MODELS[0].key] = list(errors)
        world.ask(failing, fine)
        await world.until(lambda: world.state(failing) == "failed" and world.state(fine) == "done")
        failure = world.board.nodes[failing.key].failure
        assert failure is not None
        assert str(errors[0]) in failure.cause
        assert world.starts[MODELS[0].key] == attempts

    asyncio.run(script())


def test_released_stage_gives_its_seat_and_its_model_back(tmp_path: Any) -> None:
    async def script() -> None:
        world = World(tmp_path)
        dropped, fine = chats(MODELS[0], 1)[0], chats(MODELS[1], 1)[0]
        number = world.ask(dropped)
        await world.step()
        assert world.state(dropped) == "running"
        world.ask(fine)
        for key in world.board.release(number):
            world.pool.cancel(key)
        assert world.state(dropped) == "cancelled"
        await world.until(lambda: world.state(fine) == "done")
        assert dropped.key not in world.log

    asyncio.run(script())


def test_stages_of_a_host_that_died_run_again_with_another(tmp_path: Any) -> None:
    async def script() -> None:
        world = World(tmp_path)
        stages = chats(MODELS[0], 3)
        number = world.ask(*stages)
        await world.until(lambda: len(world.log) == 2)
        world.death = ActorDiedError()
        await world.step()
        await world.step()
        world.death = None
        world.up.clear()
        await world.until(lambda: world.board.is_settled(number))
        assert {world.state(stage) for stage in stages} == {"done"}

    asyncio.run(script())


def test_what_waits_for_a_model_says_so(tmp_path: Any) -> None:
    async def script() -> None:
        world = World(tmp_path)
        (stage,) = chats(MODELS[0], 1)
        world.ask(stage)
        await world.step()
        assert world.board.nodes[stage.key].waits_for.startswith("number-0-")
        assert world.board.nodes[stage.key].waits_for.endswith("to come up")
        assert [name[:9] for name in world.pool.names] == ["number-0-"]
        world.ask(*chats(MODELS[1], 2))
        await world.step()
        assert world.pool.turn == "room for their models"
        await world.until(lambda: "stopping" in [h.state for h in world.pool._held.values()])
        assert world.pool.turn.startswith("number-0-")
        assert world.pool.turn.endswith("to make room for other models")

    asyncio.run(script())


def test_stages_beyond_the_most_that_talk_at_once_wait_for_one_of_these(tmp_path: Any) -> None:
    async def script() -> None:
        world = World(tmp_path)
        world.ask(*chats(MODELS[0], 3))
        await world.step()
        assert world.pool.turn == "the end of one of 2 stages that talk to models"

    asyncio.run(script())


def test_models_that_can_never_fit_are_refused_with_what_there_is() -> None:
    (stage,) = chats(MODELS[0], 1)
    check_models_fit([stage], EXECUTION, NODES)
    gpus = replace(EXECUTION, placement=Placement(num_gpus=1, tensor_parallel=4))
    two_nodes: list[Resources] = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
    with pytest.raises(
        UserError,
        match=r"stage chat needs a model served \(number-0-\w+: 1 replica with 4 GPU each\), which "
        r"this cluster can never hold; its 2 node\(s\) have: 8 CPU, 2 GPU; 8 CPU, 2 GPU",
    ):
        check_models_fit([stage], gpus, two_nodes)
    scaled = replace(EXECUTION, placement=Placement(num_gpus=1, max_replicas=5))
    with pytest.raises(UserError, match=r"5 replicas with 1 GPU each"):
        check_models_fit([stage], scaled, two_nodes)
    check_models_fit([stage], replace(gpus, remote={MODELS[0].key: None}), NODES)  # pyright: ignore
