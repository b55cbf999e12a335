"""The stage broker: one actor per store and cluster that owns every running stage.

Callers (drivers, Tune trials) hold a `BrokerClient` (`sweeps.client`): they `ask` for stages and
wait. `StageBroker` looks the store up, keeps the book (`sweeps.board`), and gives what is ready to
who can run it: `train` stages to gangs (`sweeps.gang`), `light` stages to a few processes
(`sweeps.light_pool`), `serve` stages to one process with clients of served models
(`sweeps.serve_pool`). A stage that several callers ask for runs once, as the first of them wants it
(`Execution`). A caller that falls silent loses its requests; what nobody awaits is cancelled.

The broker is a named, detached actor: all drivers on a cluster that use one store and the same code
share it (`sweeps.client.broker_name`). Ray starts it again when it dies; what ran then died with
it, and the drivers, which find that it knows nothing of them, tell it again what they want. It ends
by itself, with all that it started, when the last driver has left or fallen silent.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import ray

from serving.backends.vllm import Vllm
from sweeps.board import Board
from sweeps.callers import Driver, Request
from sweeps.claims import Claims
from sweeps.client import NAMESPACE, DriverClient, Forgotten, broker_name
from sweeps.cluster import free_gangs, node_resources, on_head
from sweeps.events import BrokerSnapshot, StageEvent, StageRecord
from sweeps.gang import GangPool, Order
from sweeps.light_pool import LightPool
from sweeps.nodes import Node
from sweeps.placements import check_models_fit
from sweeps.resources import Execution, check_fits
from sweeps.serve_pool import ServePool, start_host
from sweeps.settling import Settling
from sweeps.store import ArtifactStore
from sweeps.worker import Outcome
from w2s.errors import DamagedArtifact
from w2s.stages.base import Lane, Stage, closure

log = logging.getLogger(__name__)

TICK_S = 1.0
"""How often the broker looks for silent callers, idle gangs and new nodes."""
SETTLED_S = 0.2
"""How often it looks whether a damaged artifact is made again."""
CLOSE_TIMEOUT_S = 6.0
"""Time that gangs and served models have to go away by themselves."""
LAST_DRIVER_S = 10.0
"""Time that a broker whose last driver fell silent waits for it to come back."""
FIRST_DRIVER_S = 60.0
"""Time that a broker which has just begun waits for a driver."""


class StageBroker:
    """The actor; made by `start_broker`, called by workers and through `sweeps.client`."""

    def __init__(self, name: str, store: str) -> None:
        """Args: name: of the actor. store: folder or URL of the artifact store."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        self._owner = name.rpartition("-")[2]
        self._store = ArtifactStore(store)
        self._incarnation = uuid.uuid4().hex
        self._board = Board(on_settled=self._on_settled)
        self._handle = ray.get_runtime_context().current_actor
        self._drivers: dict[str, Driver] = {}
        self._requests: dict[str, Request] = {}
        self._by_number: dict[int, Request] = {}
        self._seen: dict[str, float] = {}
        self._settling = Settling(self._board, self._store, self._spawn, self._change)
        cluster = f"{socket.gethostname()} ({ray.get_runtime_context().get_session_name()})"
        self._claims = Claims(self._board, self._store, cluster)
        self._gangs: list[tuple[Execution, GangPool]] = []
        self._lights = LightPool(
            self._board,
            self._store.root,
            self._handle,
            max_workers=0,
            on_change=self._change,
            spawn=self._spawn,
            claim=self._claims.take,
            settle=self._settling.settle,
            lost=self._settling.lost,
        )
        self._serves = ServePool(
            self._board,
            partial(start_host, self._handle, self._owner),
            on_change=self._change,
            spawn=self._spawn,
            claim=self._claims.take,
            settle=self._settling.settle,
            lost=self._settling.lost,
        )
        self._num_told = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = 0.0
        self._wanted_until = FIRST_DRIVER_S
        self._closing = False
        self._closed = asyncio.Event()
        self._bug: BaseException | None = None
        self._schedule_due = False
        self._nodes = node_resources()
        self._store.clear_scratch()
        # Runs as soon as this is over, after a restart too, unless Ray loses it, as it may do with
        # what an actor asks of itself before the cluster knows that it is back.
        self._has_begun = False
        self._handle.begin.remote()

    async def begin(self) -> None:
        """Begin to look after callers, gangs and nodes; does so once."""
        if self._has_begun:
            return
        self._has_begun = True
        self._spawn(self._tick())
        if ray.get_runtime_context().was_current_actor_reconstructed:
            log.warning("the broker was started again")
            await asyncio.to_thread(self._remove_leftovers)

    # For callers

    async def open(self, driver: str, execution: Execution) -> str:
        """A driver begins to use the broker, or finds it again; the name of this incarnation.

        Raises:
            Forgotten: the broker is ending; the next one has the same name.
        """
        await self.begin()
        if self._closing:
            raise Forgotten("the stage broker is ending")
        if driver not in self._drivers:
            self._board.forget_failures()  # a run tries again what failed in another
            self._drivers[driver] = Driver(execution, self._clock)
            self._add_pool(execution)
            self._lights.allow(execution.max_light_workers)
        return self._incarnation

    async def beat(self, driver: str, caller: str) -> None:
        """A sign of life."""
        self._driver(driver)
        self._seen[caller] = self._clock

    async def leave(self, driver: str) -> bool:
        """A driver is through; True: it was the last, and nothing runs any more."""
        for name, request in list(self._requests.items()):
            if request.driver == driver:
                self._drop(name)
        self._drivers.pop(driver, None)
        self._change()
        if self._drivers:
            return False
        await self._close()
        return True

    async def register(self, driver: str, stages: Sequence[Stage]) -> None:
        """Make stages known, so that they can be asked for by key. Runs nothing."""
        self._driver(driver).known.update((stage.key, stage) for stage in stages)

    async def ask(
        self, driver: str, caller: str, request: str, stages: Sequence[Stage | str]
    ) -> None:
        """Make a request; one that is known stays as it is.

        Args:
            driver: whose execution decides how stages run that nobody asked for before.
            caller: whose signs of life keep the request alive.
            request: its id.
            stages: stages, or keys of registered ones.

        Raises:
            Forgotten: the driver or a key is unknown.
            UserError: the cluster can never hold the models that a stage talks to.
        """
        owner = self._driver(driver)
        self._seen[caller] = self._clock
        if any(isinstance(stage, str) and stage not in owner.known for stage in stages):
            raise Forgotten("nobody registered a stage that was asked for by its key")
        roots = [owner.known[stage] if isinstance(stage, str) else stage for stage in stages]
        owner.known.update((stage.key, stage) for stage in roots)
        unknown = self._board.unknown(roots)
        present = await asyncio.to_thread(self._store.present, unknown)
        if request in self._requests:
            return
        missing = [stage for stage in unknown if stage.key not in present]
        check_models_fit(missing, owner.execution, self._nodes)
        number = self._board.add(roots, present, owner.execution)
        entry = self._by_number[number] = Request(driver, caller, number)
        self._requests[request] = entry
        self._seen[caller] = self._clock
        self._tell()
        owner.log.ask(closure(roots), self._board)
        if self._board.is_settled(number):
            entry.settled.set()
        self._change()

    async def wait(self, caller: str, request: str) -> bool:
        """Wait until everything a request awaits is there; False: not yet, call again.

        Raises:
            StageFailed: one of its stages failed.
            Forgotten: the request was dropped because its caller had fallen silent.
        """
        # The call of a caller that died would go on: only a new call is a sign of life.
        self._seen[caller] = self._clock
        entry = self._requests.get(request)
        if entry is None:
            raise Forgotten("this request is not known")
        self._driver(entry.driver)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(entry.settled.wait(), self._lease_s(entry) / 4)
        if self._bug is not None:
            raise self._bug
        if self._requests.get(request) is not entry:
            raise Forgotten("this request was dropped")
        if failure := self._board.requests[entry.number].failure:
            self._drop(request)
            raise failure
        if self._board.is_settled(entry.number):
            self._drop(request)
            return True
        return False

    async def release(self, request: str) -> None:
        """Drop a request; what nobody else awaits is cancelled."""
        self._drop(request)
        self._change()

    async def read_json(self, driver: str, key: str, file: str) -> Any:
        """The content of a JSON file of an artifact that was asked for.

        Raises:
            StageFailed: the artifact was damaged, and could not be made again.
        """
        self._driver(driver)
        node = self._board.nodes.get(key)
        if node is None:
            raise Forgotten(f"nobody asked for the stage {key}")
        try:
            path = await asyncio.to_thread(self._store.local, node.stage) / file
        except DamagedArtifact as damage:
            log.warning("%s", damage)
            await self._make_again(node)
            path = await asyncio.to_thread(self._store.local, node.stage) / file
        return json.loads(path.read_text(encoding="utf-8"))

    async def snapshot(self) -> BrokerSnapshot:
        """The state of everything now, of all drivers."""
        turns: dict[Lane, str] = {"serve": self._serves.turn}
        for pool in self._pools:
            if pool.is_asked:
                turns["train"] = pool.turn
        return self._board.snapshot(
            gangs=sum(len(pool.gangs) for pool in self._pools),
            served=self._serves.names,
            turns=turns,
        )

    async def events(self, driver: str, read: str, after: int) -> tuple[str, list[StageEvent]]:
        """What ended among the stages of a driver.

        Args:
            driver: its id.
            read: name of the log that it read from last.
            after: index of the first event of that one that it has not read.

        Returns:
            Name of the log, and what it has not read from it.
        """
        owner = self._driver(driver)
        return owner.id, owner.log.after(after if read == owner.id else 0)

    async def noticed(self, driver: str) -> list[str]:
        """What was lost and made good among the stages of a driver, in words."""
        return self._driver(driver).noticed

    # For workers

    async def next_order(self, gang: int, rank: int, last: int, outcome: Outcome | None) -> Order:
        """See `GangPool.next_order`."""
        for pool in self._pools:
            if gang in pool.gangs:
                return await pool.next_order(gang, rank, last, outcome)
        return Order("stop")  # of an earlier broker

    async def report(self, key: str, step: int, total: int, metrics: dict[str, float]) -> bool:
        """Progress of a running stage; returns whether anybody still awaits it."""
        return self._board.report(key, step, total, metrics) and not self._closing

    # Inside: callers

    def _driver(self, name: str) -> Driver:
        driver = self._drivers.get(name)
        if driver is None or self._closing:
            raise Forgotten("this run is not known to the stage broker")
        driver.seen = self._clock
        return driver

    def _lease_s(self, request: Request) -> float:
        driver = self._drivers.get(request.driver)
        return driver.execution.lease_s if driver else FIRST_DRIVER_S

    def _drop(self, request: str) -> None:
        entry = self._requests.pop(request, None)
        if entry is None:
            return
        del self._by_number[entry.number]
        entry.settled.set()
        for key in self._board.release(entry.number):
            # A training notices by itself, from the answer to its next report.
            self._serves.cancel(key)

    def _on_settled(self, number: int) -> None:
        if entry := self._by_number.get(number):
            entry.settled.set()

    def _tell(self) -> None:
        """Pass what ended on to the drivers that asked for it."""
        for event in self._board.events_after(self._num_told):
            self._num_told = event.index + 1
            node = self._board.nodes[event.key]
            for driver in self._drivers.values():
                if driver.log.add(event) and event.state == "done" and node.attempts > 1:
                    why = f": {node.cause}" if node.cause else ""
                    driver.noticed.append(f"{event.name} was started {node.attempts} times{why}")

    def _forget_the_silent(self) -> None:
        now = self._clock
        for name, request in list(self._requests.items()):
            if now - self._seen[request.caller] > self._lease_s(request):
                log.warning("caller=%s is silent; its request is dropped", request.caller)
                self._drop(name)
        for name, driver in list(self._drivers.items()):
            if now - driver.seen > driver.execution.lease_s:
                log.warning("driver=%s is silent; the broker forgets it", name)
                del self._drivers[name]
        waiting = {request.caller for request in self._requests.values()}
        for caller in [caller for caller in self._seen if caller not in waiting]:
            del self._seen[caller]

    # Inside: stages

    async def _make_again(self, node: Node) -> None:
        """Wait until a damaged artifact is made again.

        Raises:
            StageFailed: it cannot be.
        """
        stages = closure([node.stage]).values()
        await asyncio.to_thread(self._store.set_aside, node.stage.key)
        present = await asyncio.to_thread(self._store.present, stages)
        self._board.forget(node.stage.key, present)
        number = self._board.add([node.stage], present, node.execution)
        self._change()
        while not self._board.is_settled(number):
            await asyncio.sleep(SETTLED_S)
        failure = self._board.requests[number].failure
        self._board.release(number)
        if failure is not None:
            raise failure

    def _change(self) -> None:
        """Something happened: tell of it, and look for work once per turn of the loop."""
        if self._bug is None and not self._schedule_due:
            self._schedule_due = True
            asyncio.get_running_loop().call_soon(self._schedule)

    def _schedule(self) -> None:
        self._schedule_due = False
        self._tell()
        if self._closing:
            return
        try:
            self._lights.schedule()
            self._serves.schedule(self._nodes, self._pools)
            for pool in self._pools:
                others = [other for other in self._pools if other is not pool]
                taken = [use.group for other in others for use in other.uses()]
                pool.schedule(self._nodes, [*self._serves.taken, *taken])
                if pool.shortage is not None:
                    for other in others:
                        other.end([use.id for use in other.uses() if use.is_useless])
        except Exception as error:
            self._give_up(error)

    @property
    def _pools(self) -> list[GangPool]:
        return [pool for _, pool in self._gangs]

    def _add_pool(self, execution: Execution) -> None:
        """Stages of each execution train in gangs of their own."""
        if any(known == execution for known, _ in self._gangs):
            return
        one_place = self._store.is_local or len(self._nodes) == 1
        pool = GangPool(
            self._board,
            execution,
            self._handle,
            self._change,
            None if one_place else f"{self._store.root}/.gangs",
            claim=self._claims.take,
            settle=self._settling.settle,
            lost=self._settling.lost,
        )
        self._gangs.append((execution, pool))

    # Inside: the broker itself

    def _give_up(self, bug: BaseException) -> None:
        """An error of the broker itself reaches everyone who waits, who would wait for ever."""
        log.error("the broker failed", exc_info=bug)
        self._bug = bug
        for request in self._requests.values():
            request.settled.set()

    async def _tick(self) -> None:
        last = time.monotonic()
        while not self._closing:
            await asyncio.sleep(TICK_S)
            # Where this process itself stood still, the calls of the living wait in its queue.
            self._clock += min(time.monotonic() - last, 2 * TICK_S)
            last = time.monotonic()
            self._nodes = await asyncio.to_thread(node_resources)
            if freed := await asyncio.to_thread(free_gangs):
                log.warning("freed what %d gang(s) without a controller had reserved", freed)
            self._forget_the_silent()
            await self._claims.keep()
            self._change()
            if self._drivers:
                self._wanted_until = self._clock + LAST_DRIVER_S
            elif self._clock > self._wanted_until:
                await self._close()
        await self._closed.wait()
        await asyncio.sleep(TICK_S)  # the answer to the last driver goes out
        ray.kill(self._handle)

    async def _close(self) -> None:
        """Let gangs end and take served models down; from here on the broker is on its way out."""
        self._closing = True
        for pool in self._pools:
            pool.stop_all()
        ends = [self._serves.close(), *(pool.ended() for pool in self._pools)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*ends), CLOSE_TIMEOUT_S)
        await asyncio.to_thread(free_gangs, living=True)
        await self._claims.give_back()
        self._closed.set()

    def _remove_leftovers(self) -> None:
        """Take down the served models of the broker that died: they hold room for nothing."""
        try:
            Vllm(owner=self._owner).clear()
        except Exception:
            log.exception("models of the broker that died may still be up")

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._give_up(error)


def start_broker(execution: Execution, broker: type[StageBroker] = StageBroker) -> DriverClient:
    """Open the broker of a store on the cluster this process is connected to.

    Args:
        execution: how the stages of this driver run.
        broker: class of the actor, which is started where no driver of this cluster has.

    Raises:
        UserError: the cluster can never give what training asks for.
        StoreError: the store cannot be written.
    """
    check_fits(execution.shape, node_resources())
    store = ArtifactStore(execution.store)
    store.check_writable()
    name = broker_name(store.root)

    def create() -> Any:
        actor = cast(Any, ray).remote(num_cpus=0, max_restarts=-1, max_concurrency=10_000)
        place = {"name": name, "namespace": NAMESPACE, "resources": on_head()}
        named = actor(broker).options(**place, lifetime="detached", get_if_exists=True)
        return named.remote(name, store.root)

    def record(stage: Stage) -> StageRecord | None:
        return store.record(stage) if store.has(stage) else None

    return DriverClient(name, create, execution, record)
