"""Both ends of a gang: the loop its workers run, and the pool in which the broker keeps them.

A worker calls `serve_stages`: it joins its gang, then asks for the next order again and again,
handing in what came of the last (`Order`, `Outcome`). All workers of a gang get the same orders;
nothing is broadcast between them, so one that fails alone is seen here: the others, caught in a
collective, do not hand in, and the gang is ended. A gang of which a worker dies ends too: a new one
starts, and its stage runs again.

`GangPool` lives in the broker's event loop; there is one for each `Execution`. It starts gangs in
threads that wait in `run_gang`, as many as the cluster holds and the queue can use, gives idle ones
the most urgent stage, and ends them when nothing is left that they could run.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ray

from sweeps.admission import GangUse
from sweeps.board import Board
from sweeps.claims import Claim
from sweeps.nodes import Node
from sweeps.resources import (
    Execution,
    GangShape,
    Resources,
    left_over,
    slots,
    words,
    worker_environment,
)
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, Outcome, run_stage
from w2s.stages.base import Stage

if TYPE_CHECKING:
    from w2s.training.distributed import Member

log = logging.getLogger(__name__)

PARTNER_GRACE_S = 20.0
"""Time the other workers have to hand in after one failed, before they count as stuck."""
MAX_FAILED_STARTS = 3
"""Gangs in a row that end without having run anything, before training is given up. One that found
no room does not count: it waits for its turn."""
WARM_OBJECTS = 2
"""Objects that stages may leave in a worker's memory: base models, as a rule."""


class GangBroken(Exception):
    """A worker failed alone; raised on those that are not stuck, so that the gang ends."""


class Order(NamedTuple):
    """What a worker shall do next."""

    action: Literal["run", "stop", "break"]
    number: int = 0
    """Counts the stages of a gang from 1."""
    stage: Stage | None = None


def serve_stages(member: "Member", broker: Any, gang: int, execution: Execution) -> None:
    """The loop of one worker: run what the broker orders until it says stop.

    Raises:
        GangBroken: another worker of the gang failed alone.
    """
    store = ArtifactStore(execution.store)
    on_gpu = member.device.startswith("cuda")
    conditions = Conditions(
        replicas=replace(member.replicas, shards=execution.sharding == "shard"),
        device=member.device,
        precision=execution.precision or ("bf16" if on_gpu else "fp32"),
        micro_batch_size=execution.micro_batch_size,
        acceleration=execution.acceleration,
        checkpoint_s=execution.checkpoint_s,
        timeout_s=execution.stage_timeout_s,
    )
    rank = member.replicas.rank
    order: Any = Order("run")
    outcome = None
    while True:
        order = ray.get(broker.next_order.remote(gang, rank, order.number, outcome))
        if order.action == "stop":
            return
        if order.action == "break":
            raise GangBroken("another worker failed alone")
        assert order.stage is not None
        report = ProgressReport(broker, order.stage.key) if rank == 0 else _no_report
        outcome = run_stage(order.stage, store, conditions, report)
        while len(conditions.warm) > WARM_OBJECTS:
            conditions.warm.pop(next(iter(conditions.warm)))


class ProgressReport:
    """Sends progress to the broker; learns from its answer to the last whether to go on."""

    def __init__(self, broker: Any, key: str) -> None:
        """Args: broker: the stage broker. key: of the stage that runs."""
        self._broker = broker
        self._key = key
        self._answer: Any = None

    def __call__(self, step: int, total: int, metrics: dict[str, float]) -> bool:
        """A `Report`; False once nobody awaits the stage any more."""
        if self._answer is not None:
            ready, _ = ray.wait([self._answer], timeout=0)
            if not ready:
                return True
            if not ray.get(self._answer):
                return False
        self._answer = self._broker.report.remote(self._key, step, total, metrics)
        return True


def _no_report(step: int, total: int, metrics: dict[str, float]) -> bool:
    return True


@dataclass(slots=True)
class Ticket:
    """A stage in the hands of a gang."""

    number: int
    stage: Stage
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    """What ranks that are through with it handed in."""
    failed_at: float | None = None
    """Time of the first failure."""
    settled: bool = False
    """Whether the board knows what came of it."""
    claim: "asyncio.Task[set[str]] | None" = None
    """Whether this cluster may run it, once a worker asked for it."""

    def verdict(self) -> Outcome | None:
        """What came of it as far as it is known: the artifact, or the error that says the most.

        An error that may go away, such as a lost connection, is often but the echo of another
        worker's error or death.
        """
        return min(self.outcomes.values(), key=_weight, default=None)


def _weight(outcome: Outcome) -> int:
    if outcome.record is not None:
        return 4  # of another rank than the first, which has said so itself
    if outcome.cancelled:
        return 2
    return 3 if outcome.retry else 0 if not outcome.damaged else 1


@dataclass(slots=True)
class Gang:
    """A worker group as the broker sees it."""

    id: int
    shape: GangShape
    ranks: set[int] = field(default_factory=set)
    """Workers that have joined; none while it starts."""
    ticket: Ticket | None = None
    held: str | None = None
    """Key of the base model in its memory."""
    num_stages: int = 0
    """Stages it was given."""
    stopping: bool = False
    since: float = field(default_factory=time.monotonic)
    """When it was started."""
    idle_since: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_idle(self) -> bool:
        """Whether it could take a stage now."""
        return (
            self.ticket is None and not self.stopping and len(self.ranks) == self.shape.num_workers
        )

    @property
    def is_free(self) -> bool:
        """Whether it is idle or on its way to be."""
        return self.ticket is None and not self.stopping

    def wake(self) -> None:
        """Let the workers that wait for an order look again."""
        self.changed.set()
        self.changed = asyncio.Event()


class Shortage(NamedTuple):
    """Stages are ready, and the cluster has no room for the gang they need."""

    shape: GangShape
    """What they need."""
    is_starved: bool
    """There is no other gang that they could run in."""


class GangPool:
    """The gangs of a broker; every method runs in the broker's event loop."""

    def __init__(
        self,
        board: Board,
        execution: Execution,
        broker: Any,
        on_change: Callable[[], None],
        shared_storage: str | None,
        *,
        claim: Claim,
        settle: Callable[[Outcome], None],
        lost: Callable[[Node, BaseException], None],
    ) -> None:
        """Start with no gang.

        Args:
            board: where stages come from and results go.
            execution: how they run.
            broker: handle that workers talk to.
            on_change: called after any change that may make work possible elsewhere.
            shared_storage: folder or URL that all nodes see, for Ray Train's notes; None: scratch
                of the store will do.
            claim: asked before a stage runs.
            settle: takes what came of a stage.
            lost: takes a stage whose process died, and what is known about that.
        """
        self.gangs: dict[int, Gang] = {}
        self._board = board
        self._execution = execution
        self._broker = broker
        self._on_change = on_change
        self._store = ArtifactStore(execution.store)
        self._shared_storage = shared_storage
        self.shortage: Shortage | None = None
        """Stages that are ready and lack the room for a gang."""
        self._claim = claim
        self._settle = settle
        self._lost = lost
        self._failed_starts = 0
        # A gang holds its thread for as long as it lives.
        self._threads = ThreadPoolExecutor(max_workers=256, thread_name_prefix="gang")

    # Called by workers, through the broker

    async def next_order(
        self, gang_id: int, rank: int, last: int, outcome: Outcome | None
    ) -> Order:
        """The next order for a worker; waits until there is one.

        Args:
            gang_id: its gang; a worker of an unknown one, as of an earlier broker, is stopped.
            rank: its rank.
            last: number of the order it did last; 0: none.
            outcome: what came of that.
        """
        gang = self.gangs.get(gang_id)
        if gang is None:
            return Order("stop")
        if rank not in gang.ranks:
            self._join(gang, rank)
        if outcome is not None and gang.ticket is not None and gang.ticket.number == last:
            self._hand_in(gang, gang.ticket, rank, outcome)
        while True:
            changed = gang.changed
            ticket = gang.ticket
            if ticket is None and gang.stopping:
                return Order("stop")
            if ticket is not None and ticket.number > last:
                if await self._may_run(gang, ticket):
                    return Order("run", ticket.number, ticket.stage)
                continue
            if ticket is not None and ticket.failed_at is not None:
                if time.monotonic() - ticket.failed_at > PARTNER_GRACE_S:
                    log.error("gang=%d is stuck after a worker failed alone; it ends", gang.id)
                    gang.stopping = True
                    self._close(gang, ticket)
                    return Order("break")
                timeout = 1.0
            else:
                timeout = None
            try:
                await asyncio.wait_for(changed.wait(), timeout)
            except TimeoutError:
                continue

    # Called by the broker

    def schedule(self, nodes: Sequence[Resources], others: Sequence[tuple[int, Resources]]) -> None:
        """Give stages to idle gangs; start gangs for what is left, end those without a future.

        Args:
            nodes: total resources of each node of the cluster.
            others: (count, resources) of what else the broker keeps on the cluster.
        """
        self._assign()
        self.shortage = None
        if self._board.num_planned("train", self._execution):
            # The first gang starts before its stages are ready: data and start-up overlap.
            wanted = max(
                self._board.num_ready("train", self._execution), 0 if self.gangs else 1
            ) - sum(gang.is_free for gang in self.gangs.values())
            for _ in range(wanted):
                if not self._has_room(nodes, others):
                    self._note_shortage()
                    return
                self._start()
            return
        for gang in list(self.gangs.values()):
            idle_s = time.monotonic() - gang.idle_since
            if gang.is_idle and idle_s > self._execution.gang_idle_s:
                self._stop(gang)

    def uses(self) -> list[GangUse]:
        """What gangs take, for those that decide on served models."""
        is_ready = self._board.num_ready("train", self._execution) > 0
        return [
            GangUse(
                gang.id,
                (gang.shape.num_workers, gang.shape.per_worker),
                gang.since,
                is_useless=gang.is_free and not is_ready,
                is_ending=gang.stopping,
            )
            for gang in self.gangs.values()
        ]

    @property
    def is_asked(self) -> bool:
        """Whether stages have to run here."""
        return self._board.num_planned("train", self._execution) > 0

    @property
    def turn(self) -> str:
        """What ready stages wait for, in words."""
        if self.shortage is not None:
            shape = self._execution.shape
            return f"room for {shape.num_workers} worker(s) with {words([shape.per_worker])} each"
        if any(len(gang.ranks) < gang.shape.num_workers for gang in self.gangs.values()):
            return "a worker group, which starts"
        return "a free worker group"

    def end(self, gangs: Collection[int]) -> None:
        """Let gangs end after the stage they have."""
        for number in gangs:
            self._stop(self.gangs[number])

    def stop_all(self) -> None:
        """Let every gang end after the stage it has."""
        for gang in self.gangs.values():
            self._stop(gang)

    async def ended(self) -> None:
        """Wait until no gang is left."""
        while self.gangs:
            await asyncio.sleep(0.05)

    # Inside

    async def _may_run(self, gang: Gang, ticket: Ticket) -> bool:
        """Whether a gang still has a stage, once it is claimed; all its workers ask."""
        if ticket.claim is None:
            ticket.claim = asyncio.ensure_future(self._claim([ticket.stage]))
        is_claimed = ticket.stage.key in await asyncio.shield(ticket.claim)
        if gang.ticket is ticket and not is_claimed:
            gang.ticket = None
            gang.idle_since = time.monotonic()
            gang.wake()
            self._on_change()
        return gang.ticket is ticket

    def _join(self, gang: Gang, rank: int) -> None:
        gang.ranks.add(rank)
        if gang.is_idle:
            gang.idle_since = time.monotonic()
            self._failed_starts = 0
            self._on_change()

    def _hand_in(self, gang: Gang, ticket: Ticket, rank: int, outcome: Outcome) -> None:
        ticket.outcomes[rank] = outcome
        if outcome.record is None:
            ticket.failed_at = ticket.failed_at or time.monotonic()
        elif rank == 0:
            # The artifact is there, whatever happens to the other workers.
            self._settle(outcome)
            ticket.settled = True
            gang.held = ticket.stage.base_model or gang.held
        if len(ticket.outcomes) == gang.shape.num_workers:
            self._close(gang, ticket)
            gang.idle_since = time.monotonic()
        gang.wake()
        self._on_change()

    def _close(self, gang: Gang, ticket: Ticket) -> None:
        """The gang is through with a stage."""
        gang.ticket = None
        verdict = ticket.verdict()
        if not ticket.settled and verdict is not None:
            self._settle(verdict)

    def _take_back(self, gang: Gang, error: BaseException | None) -> None:
        """The gang is no more: settle the stage it had."""
        ticket, gang.ticket = gang.ticket, None
        if ticket is None or ticket.settled:
            return
        verdict = ticket.verdict()
        if verdict is not None and verdict.record is None and not verdict.retry:
            self._settle(verdict)
        else:
            node = self._board.nodes[ticket.stage.key]
            self._lost(node, error or RuntimeError("its gang ended"))

    def _assign(self) -> None:
        for gang in self.gangs.values():
            if not gang.is_idle:
                continue
            node = self._board.best("train", self._execution, gang.held)
            if node is None:
                return
            self._board.start(node.stage.key)
            gang.num_stages += 1
            gang.ticket = Ticket(gang.num_stages, node.stage)
            log.info("stage=%s key=%s running in gang %d", node.stage.name, node.stage.key, gang.id)
            gang.wake()

    def _has_room(
        self, nodes: Sequence[Resources], others: Sequence[tuple[int, Resources]]
    ) -> bool:
        if self._is_at_limit:
            return False
        mine = [use.group for use in self.uses()]
        return slots(self._execution.shape, left_over(nodes, [*others, *mine])) > 0

    @property
    def _is_at_limit(self) -> bool:
        limit = self._execution.max_gangs
        return limit is not None and len(self.gangs) >= limit

    def _note_shortage(self) -> None:
        if self._board.num_ready("train", self._execution) and not self._is_at_limit:
            is_starved = all(gang.stopping for gang in self.gangs.values())
            self.shortage = Shortage(self._execution.shape, is_starved)

    def _start(self) -> None:
        shape = self._execution.shape
        gang = Gang(secrets.randbelow(10**6), shape)
        self.gangs[gang.id] = gang
        log.info("gang=%d starts: %d worker(s)", gang.id, shape.num_workers)
        work = partial(serve_stages, broker=self._broker, gang=gang.id, execution=self._execution)
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._run, work, shape)
        future.add_done_callback(lambda done: self._ended(gang, done.exception()))

    def _run(self, work: "Callable[[Member], None]", shape: GangShape) -> None:
        """A gang from its start to its end, in a thread of its own."""
        # Seconds of imports, while the broker answers and starts others.
        from w2s.training.distributed import run_gang

        with self._store.scratch("gang") as folder:
            run_gang(
                work,
                storage_path=self._shared_storage or str(folder),
                num_workers=shape.num_workers,
                cpus_per_worker=shape.cpus_per_worker,
                gpus_per_worker=shape.gpus_per_worker,
                threads_per_worker=shape.threads_per_worker,
                environment=worker_environment(shape.threads_per_worker),
            )

    def _stop(self, gang: Gang) -> None:
        gang.stopping = True
        gang.wake()

    def _ended(self, gang: Gang, error: BaseException | None) -> None:
        from w2s.training.distributed import found_no_room

        del self.gangs[gang.id]
        self._stop(gang)  # answers calls of workers that are no more
        if error is None:
            log.info("gang=%d ended after %d stage(s)", gang.id, gang.num_stages)
        else:
            log.error("gang=%d failed: %s", gang.id, error)
        self._take_back(gang, error)
        if error is not None and not gang.ranks and not found_no_room(error):
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                for node in self._board.planned("train", self._execution):
                    if node.state == "planned":
                        self._board.fail(
                            node.stage.key, f"GangFailed: workers do not start: {error}"
                        )
        self._on_change()
