"""The stage broker: one actor per driver run that owns every running stage.

Callers (the driver, Tune trials) hold a `BrokerClient` (`sweeps.client`): they `ask` for stages and
wait. `StageBroker` looks the store up, keeps the book (`sweeps.board`), and gives what is ready to
who can run it: `train` stages to gangs (`sweeps.gang`), `light` stages to a few processes, `serve`
stages to one process with clients of served models (`sweeps.serve_pool`). A stage that several
callers ask for runs once. A caller that falls silent loses its requests; what nobody awaits is
cancelled.

The broker is an ordinary actor, passed as a handle: it ends with the driver, and so does all that
it started.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import ray

from sweeps.board import Board
from sweeps.cluster import node_resources
from sweeps.events import BrokerSnapshot, StageEvent
from sweeps.gang import GangPool, Order
from sweeps.light_pool import LightPool
from sweeps.placements import check_models_fit
from sweeps.resources import Execution, check_fits
from sweeps.serve_pool import ServePool, start_host
from sweeps.settling import Settling
from sweeps.store import ArtifactStore
from sweeps.worker import Outcome
from w2s.stages.base import Stage

log = logging.getLogger(__name__)

TICK_S = 1.0
"""How often the broker looks for silent callers, idle gangs and new nodes."""
CLOSE_TIMEOUT_S = 6.0
"""Time that gangs and served models have to go away by themselves."""


def _actor(cls: type, **options: int) -> Any:
    """A Ray actor class that takes no CPU: what stages need is reserved by gangs and replicas."""
    return cast(Any, ray).remote(num_cpus=0, **options)(cls)


class StageBroker:
    """The actor; made by `start_broker`, called by workers and through `sweeps.client`."""

    def __init__(self, execution: Execution) -> None:
        """Args: execution: store, shapes, limits."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        self._execution = execution
        self._store = ArtifactStore(execution.store)
        self._board = Board(on_settled=self._settled)
        self._handle = ray.get_runtime_context().current_actor
        self._known: dict[str, Stage] = {}
        self._seen: dict[str, float] = {}
        self._callers: dict[int, str] = {}
        self._ends: dict[int, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._bug: BaseException | None = None
        self._schedule_due = False
        self._nodes = node_resources()
        self._store.clear_scratch()
        one_place = self._store.is_local or len(self._nodes) == 1
        shared = None if one_place else f"{self._store.root}/.gangs"
        self._settling = Settling(self._board, self._store, self._spawn, self._change)
        self._gangs = GangPool(
            self._board,
            execution,
            self._handle,
            self._change,
            shared,
            settle=self._settling.settle,
            lost=self._settling.lost,
        )
        self._lights = LightPool(
            self._board,
            execution.store,
            self._handle,
            max_workers=execution.max_light_workers,
            on_change=self._change,
            spawn=self._spawn,
            settle=self._settling.settle,
            lost=self._settling.lost,
        )
        owner = str(ray.get_runtime_context().get_actor_id())[:16]
        self._serves = ServePool(
            self._board,
            partial(start_host, self._handle, owner),
            on_change=self._change,
            spawn=self._spawn,
            settle=self._settling.settle,
            lost=self._settling.lost,
        )

    async def open(self) -> None:
        """Begin to look after callers, gangs and nodes."""
        self._spawn(self._tick())

    # For callers

    def register(self, stages: Sequence[Stage]) -> None:
        """Make stages known, so that they can be asked for by key. Runs nothing."""
        self._known.update((stage.key, stage) for stage in stages)

    async def ask(self, caller: str, stages: Sequence[Stage | str]) -> int:
        """Register a request; returns its number.

        Args:
            caller: whose signs of life keep the request alive.
            stages: stages, or keys of registered ones.

        Raises:
            UserError: the cluster can never hold the models that one of them talks to.
        """
        self._seen[caller] = time.monotonic()
        roots = [self._known[stage] if isinstance(stage, str) else stage for stage in stages]
        self.register(roots)
        unknown = self._board.unknown(roots)
        present = await asyncio.to_thread(self._store.present, unknown)
        missing = [stage for stage in unknown if stage.key not in present]
        check_models_fit(missing, self._execution, self._nodes)
        number = self._board.add(roots, present, self._execution)
        self._callers[number] = caller
        self._ends[number] = asyncio.Event()
        self._change()
        return number

    async def wait(self, caller: str, number: int) -> bool:
        """Wait until everything a request awaits is there; False: not yet, call again.

        Raises:
            StageFailed: one of its stages failed.
            KeyError: the request was dropped because its caller had fallen silent.
        """
        # The call of a caller that died would go on: only a new call is a sign of life.
        self._seen[caller] = time.monotonic()
        request = self._board.requests[number]
        if self._bug is None and not request.is_settled:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ends[number].wait(), self._execution.lease_s / 4)
        if self._bug is not None:
            raise self._bug
        if not request.is_settled:
            return False
        self._drop(number)
        if request.failure is not None:
            raise request.failure
        return True

    async def release(self, number: int) -> None:
        """Drop a request; what nobody else awaits is cancelled."""
        self._drop(number)
        self._change()

    async def read_json(self, key: str, file: str) -> Any:
        """The content of a JSON file of an artifact that was asked for."""
        stage = self._board.nodes[key].stage
        path = await asyncio.to_thread(self._store.local, stage) / file
        return json.loads(path.read_text(encoding="utf-8"))

    async def snapshot(self, caller: str) -> BrokerSnapshot:
        """The state of everything now."""
        self._seen[caller] = time.monotonic()
        return self._board.snapshot(
            gangs=len(self._gangs.gangs),
            served=self._serves.names,
            turns={"train": self._gangs.turn},
        )

    async def events(self, caller: str, after: int) -> list[StageEvent]:
        """What ended, from the log's entry number `after` on."""
        self._seen[caller] = time.monotonic()
        return self._board.events_after(after)

    async def close(self) -> None:
        """Let gangs end and take served models down; the caller kills the actor afterwards."""
        self._closing = True
        self._gangs.stop_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.gather(self._serves.close(), self._gangs.ended()), CLOSE_TIMEOUT_S
            )

    # For workers

    async def next_order(self, gang: int, rank: int, last: int, outcome: Outcome | None) -> Order:
        """See `GangPool.next_order`."""
        return await self._gangs.next_order(gang, rank, last, outcome)

    async def report(self, key: str, step: int, total: int, metrics: dict[str, float]) -> bool:
        """Progress of a running stage; returns whether anybody still awaits it."""
        return self._board.report(key, step, total, metrics) and not self._closing

    # Inside

    def _drop(self, number: int) -> None:
        self._callers.pop(number, None)
        self._ends.pop(number, None)
        for key in self._board.release(number):
            # A training notices by itself, from the answer to its next report.
            self._serves.cancel(key)

    def _settled(self, number: int) -> None:
        """A request failed or has everything: wake who waits for it."""
        if (end := self._ends.get(number)) is not None:
            end.set()

    def _change(self) -> None:
        """Something happened: look for work once per turn of the loop."""
        if self._bug is not None:
            return
        if not self._schedule_due:
            self._schedule_due = True
            asyncio.get_running_loop().call_soon(self._schedule)

    def _schedule(self) -> None:
        self._schedule_due = False
        if self._closing:
            return
        try:
            self._lights.schedule()
            self._serves.schedule(self._nodes, [self._gangs])
            self._gangs.schedule(self._nodes, self._serves.taken)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, bug: BaseException) -> None:
        """An error of the broker itself reaches everyone who waits, who would wait for ever."""
        log.error("the broker failed", exc_info=bug)
        self._bug = bug
        for end in self._ends.values():
            end.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._nodes = await asyncio.to_thread(node_resources)
            silent = time.monotonic() - self._execution.lease_s
            for number, caller in list(self._callers.items()):
                if self._seen[caller] < silent:
                    log.warning("caller=%s is silent; its request %d is dropped", caller, number)
                    self._drop(number)
            self._change()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._give_up(error)


def start_broker(execution: Execution) -> Any:
    """Start the broker of this driver run on the cluster it is connected to.

    Raises:
        UserError: the cluster can never give what training asks for.
        StoreError: the store cannot be written.
    """
    check_fits(execution.shape, node_resources())
    ArtifactStore(execution.store).check_writable()
    broker = _actor(StageBroker, max_concurrency=10_000).remote(execution)
    broker.open.remote()
    return broker


def stop_broker(broker: Any, timeout_s: float = CLOSE_TIMEOUT_S + 1.0) -> None:
    """Take served models down and end the broker with all that it started; safe to call twice."""
    with contextlib.suppress(Exception):  # whatever fails here, the actor is killed
        ray.get(broker.close.remote(), timeout=timeout_s)
    with contextlib.suppress(Exception):
        ray.kill(broker)
