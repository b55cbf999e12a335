"""The stages of the `serve` lane and the models they need, in the broker's event loop.

`ServePool` is to served models what `GangPool` is to gangs. `sweeps.admission` decides which models
are up and which stages have a seat at them; the pool carries that out: it tells the `ServeHost`, an
actor of its own, which models to bring up and take down, and gives it the stages whose models are
up. A host that dies is replaced; its models go, and its stages run again.
"""

import logging
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import ray
from pydantic import BaseModel
from ray.exceptions import RayActorError, RayTaskError

from sweeps.admission import (
    Decision,
    GangUse,
    Group,
    Held,
    Scene,
    TrainingNeed,
    Unit,
    Wish,
    decide,
    fits,
)
from sweeps.board import Board
from sweeps.claims import Claim
from sweeps.gang import Shortage
from sweeps.nodes import Node
from sweeps.placements import unit_of
from sweeps.resources import Resources
from sweeps.servable import served_key, served_name
from sweeps.served import ServeHost
from sweeps.worker import Outcome, failed
from w2s.stages.base import Stage

log = logging.getLogger(__name__)

TURN_S = 120.0
"""Wait after which stages or training go before all others: a model starts in about a minute."""
LOOK_S = 0.9
"""Longest time between two decisions while nothing is known to have changed."""


class Gangs(Protocol):
    """What the pool needs to know of gangs."""

    shortage: Shortage | None
    """Training that waits for room."""

    def uses(self) -> list[GangUse]:
        """What gangs take."""
        ...

    def end(self, gangs: Collection[int]) -> None:
        """Let gangs end after the stage they have."""
        ...


class ServePool:
    """The served models of a broker; every method runs in the broker's event loop."""

    def __init__(
        self,
        board: Board,
        new_host: Callable[[], Any],
        *,
        on_change: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        claim: Claim,
        settle: Callable[[Outcome], None],
        lost: Callable[[Node, RayActorError], None],
        turn_s: float = TURN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with no model.

        Args:
            board: where stages come from.
            new_host: starts a `ServeHost`; see `start_host`.
            on_change: called after any change that may make work possible elsewhere.
            spawn: runs a coroutine whose errors are the broker's own.
            claim: asked before a stage runs.
            settle: takes what came of a stage.
            lost: takes a stage whose process died.
            turn_s: wait after which stages or training go before all others.
            clock: seconds that only grow.
        """
        self._board = board
        self._new_host = new_host
        self._on_change = on_change
        self._spawn = spawn
        self._claim = claim
        self._settle = settle
        self._lost = lost
        self._turn_s = turn_s
        self._clock = clock
        self._host: Any = None
        self._held: dict[str, Held] = {}
        self._models: dict[str, tuple[Stage | BaseModel, Node]] = {}
        """The model of each unit, and a stage that asked for it."""
        self._seats: dict[str, tuple[Node, tuple[Unit, ...]]] = {}
        """Stages that were given a seat and have not ended."""
        self._running: set[str] = set()
        """Those of them whose models are up."""
        self._needs: dict[str, tuple[tuple[Unit, Stage | BaseModel], ...]] = {}
        """What stages need here."""
        self._ready_since: dict[str, float] = {}
        self._gone_since: dict[str, float] = {}
        """When a unit was taken down last."""
        self._starved_since: float | None = None
        self._has_seats = True
        self._is_too_small = False
        self._reserved: list[Group] = []
        self._decided: tuple[object, float] = (None, 0.0)
        self._closing = False

    @property
    def names(self) -> tuple[str, ...]:
        """Models that are up or starting; those behind a URL take no room and are not told."""
        return tuple(served_name(self._models[key][0]) for key in self._held)

    @property
    def taken(self) -> list[Group]:
        """(count, resources) of what is kept free for models, and of what they reserve."""
        return [*self._reserved, *(held.unit.group for held in self._held.values())]

    @property
    def turn(self) -> str:
        """What stages that are ready wait for, in words."""
        if not self._has_seats:
            return f"the end of one of {len(self._seats)} stages that talk to models"
        if self._is_too_small:
            return "a node with room for their models, which the cluster has lost"
        going = [
            served_name(self._models[key][0])
            for key, held in self._held.items()
            if held.state == "stopping"
        ]
        if going:
            return f"{', '.join(going)} to make room for other models"
        return "room for their models"

    def schedule(self, nodes: Sequence[Resources], gangs: Sequence[Gangs]) -> None:
        """Bring models up and down, give stages to those that are up, and end gangs for them.

        Args:
            nodes: total resources of each node of the cluster.
            gangs: what else takes room; one pool an execution.
        """
        now = self._clock()
        uses = [(pool, use) for pool in gangs for use in pool.uses()]
        shortages = [pool.shortage for pool in gangs if pool.shortage is not None]
        seen = (
            self._board.num_ready("serve"),
            {key: (held.state, len(held.users)) for key, held in self._held.items()},
            len(self._seats),
            shortages,
            [use for _, use in uses],
        )
        if self._closing or (seen == self._decided[0] and now - self._decided[1] < LOOK_S):
            return
        self._decided = (seen, now)
        if not self._held and not self._board.num_planned("serve"):
            self._reserved = []
            return
        ready = {node.stage.key: node for node in self._board.ready("serve")}
        numbered = [replace(use, id=number) for number, (_, use) in enumerate(uses)]
        decision = self._decide(now, nodes, numbered, shortages, ready)
        self._reserved = decision.reserved
        for number in decision.end_gangs:
            pool, use = uses[number]
            pool.end([use.id])
        for key in decision.stop:
            self._stop(key)
        for unit in decision.start:
            self._held[unit.key] = held = Held(unit, idle_since=now)
            self._spawn(self._bring_up(held))
        for key in decision.seat:
            self._seat(ready[key])

    def cancel(self, key: str) -> None:
        """Nobody awaits a running stage any more; stages of other lanes are left alone."""
        if key in self._running:
            self._the_host().cancel.remote(key)
        elif key in self._seats:
            self._leave(key)
            self._settle(Outcome(key, cause="cancelled", cancelled=True))

    async def close(self) -> None:
        """Stop stages and take models down."""
        self._closing = True
        if self._host is not None:
            try:
                await self._host.close.remote()
            except (RayActorError, RayTaskError) as error:
                log.warning("served models did not go away by themselves: %s", error)

    # Deciding

    def _decide(
        self,
        now: float,
        nodes: Sequence[Resources],
        gangs: Sequence[GangUse],
        shortages: Sequence[Shortage],
        ready: dict[str, Node],
    ) -> Decision:
        self._ready_since = {key: self._ready_since.get(key, now) for key in ready}
        wishes = [self._wish(node) for node in ready.values()]
        # What a cluster that has lost a node cannot hold must not make everything else drain.
        groups = {wish.keys: [unit.group for unit in wish.units] for wish in wishes}
        able = {keys for keys, wanted in groups.items() if fits(nodes, (), wanted)}
        possible = [wish for wish in wishes if wish.keys in able]
        self._is_too_small = len(possible) < len(wishes)
        running = [node for node, _ in self._seats.values()]
        limits = [node.execution.max_serve_stages for node in (*ready.values(), *running)]
        seats = max(0, max(limits, default=1) - len(self._seats))
        self._has_seats = seats > 0
        idles = [node.execution.model_idle_s for _, node in self._models.values()]
        return decide(
            Scene(
                now=now,
                nodes=nodes,
                held=self._held,
                gangs=gangs,
                wishes=possible,
                soon=self._soon(),
                training=self._training(now, shortages),
                seats=seats,
                turn_s=self._turn_s,
                idle_s=min(idles, default=0.0),
            )
        )

    def _wish(self, node: Node) -> Wish:
        units, since = self._units(node), self._ready_since[node.stage.key]
        gone = [self._gone_since.get(unit.key, since) for unit in units]
        return Wish(node.stage.key, units, max(since, *gone) if gone else since)

    def _training(self, now: float, shortages: Sequence[Shortage]) -> TrainingNeed | None:
        worst = max(shortages, key=lambda shortage: shortage.is_starved, default=None)
        starved = worst is not None and worst.is_starved
        self._starved_since = (self._starved_since or now) if starved else None
        if worst is None:
            return None
        group = (worst.shape.num_workers, worst.shape.per_worker)
        return TrainingNeed(group, self._starved_since or now, starved)

    def _soon(self) -> list[Unit]:
        """Units that stages will need, and whose weights are there: the stages' others may not."""
        found: dict[str, Unit] = {}
        for node in self._board.planned("serve"):
            for unit in self._units(node):
                model = self._models[unit.key][0]
                if not isinstance(model, Stage) or self._is_there(model):
                    found[unit.key] = unit
        return list(found.values())

    def _units(self, node: Node) -> tuple[Unit, ...]:
        """What a stage needs here; models behind a URL take no room."""
        needs = self._needs.get(node.stage.key)
        if needs is None:
            models = {served_key(model): model for model in node.stage.served_models}
            here = [model for key, model in models.items() if key not in node.execution.remote]
            needs = tuple((unit_of(model, node.execution), model) for model in here)
            self._needs[node.stage.key] = needs
        units = []
        for unit, model in needs:
            if held := self._held.get(unit.key):
                units.append(held.unit)  # as the first to ask wanted it
            else:
                self._models[unit.key] = (model, node)
                units.append(unit)
        return tuple(units)

    def _is_there(self, stage: Stage) -> bool:
        node = self._board.nodes.get(stage.key)
        return node is not None and node.state in ("cached", "done")

    # Carrying it out

    def _the_host(self) -> Any:
        if self._host is None:
            self._host = self._new_host()
        return self._host

    def _seat(self, node: Node) -> None:
        key, units = node.stage.key, self._units(node)
        self._board.start(key)
        self._seats[key] = (node, units)
        for unit in units:
            self._held[unit.key].users.add(key)
        self._run_if_up(key)

    def _run_if_up(self, key: str) -> None:
        node, units = self._seats[key]
        starting = [unit.key for unit in units if self._held[unit.key].state != "up"]
        if starting:
            names = ", ".join(served_name(self._models[unit][0]) for unit in starting)
            self._board.hold(key, f"{names} to come up")
        else:
            self._running.add(key)
            self._spawn(self._run(node))

    def _leave(self, key: str) -> None:
        """A stage gives its seat back."""
        del self._seats[key]
        self._running.discard(key)
        for held in self._held.values():
            if key in held.users:
                held.users.discard(key)
                held.idle_since = self._clock()
        self._on_change()

    async def _run(self, node: Node) -> None:
        key = node.stage.key
        if not await self._claim([node.stage]):
            self._leave(key)
            return
        if not node.waiters:
            self._leave(key)
            self._settle(Outcome(key, cause="cancelled", cancelled=True))
            return
        host = self._the_host()
        try:
            outcome = await host.run.remote(node.stage, node.execution)
        except RayActorError as error:
            self._forget_host(host, error)
            self._leave(key)
            self._lost(node, error)
        except RayTaskError as error:  # the stage could not even be unpickled
            self._leave(key)
            self._board.fail(key, str(error.cause), str(error))
        else:
            self._leave(key)
            self._settle(outcome)
        self._on_change()

    async def _bring_up(self, held: Held) -> None:
        host, key = self._the_host(), held.unit.key
        model, node = self._models[key]
        try:
            await host.bring_up.remote(model, node.execution)
        except RayActorError as error:
            self._forget_host(host, error)
            return
        except RayTaskError as error:
            if held.state == "starting":
                del self._held[key]
                cause = error.cause if isinstance(error.cause, Exception) else error
                for stage in list(held.users):
                    node, _ = self._seats[stage]
                    self._leave(stage)
                    self._settle(failed(node.stage, cause))
        else:
            if held.state == "starting":
                held.state = "up"
                held.idle_since = held.up_since = self._clock()
                for stage in sorted(held.users):
                    self._run_if_up(stage)
        self._on_change()

    def _stop(self, key: str) -> None:
        held = self._held[key]
        assert not held.users, f"{held.users} still use {key}"
        held.state = "stopping"
        self._spawn(self._take_down(held))

    async def _take_down(self, held: Held) -> None:
        host = self._the_host()
        try:
            await host.take_down.remote(held.unit.key)
        except RayActorError as error:
            self._forget_host(host, error)
            return
        except RayTaskError as error:
            log.warning("model=%s may still be up: %s", held.unit.key, error)
        if self._held.get(held.unit.key) is held:
            del self._held[held.unit.key]
            self._gone_since[held.unit.key] = self._clock()
        self._on_change()

    def _forget_host(self, host: Any, error: RayActorError) -> None:
        """The host died; the next one begins by removing what this one has left."""
        if self._host is not host:
            return
        log.warning("the process that serves models died: %s", error)
        self._host = None
        self._held.clear()
        for key, (node, _) in list(self._seats.items()):
            if key not in self._running:
                self._leave(key)
                self._lost(node, error)
        self._on_change()


def start_host(broker: Any, owner: str) -> Any:
    """Start the actor that a pool keeps; it takes no CPU, because its models reserve their own.

    Args:
        broker: handle that gets progress.
        owner: whose models they are: the same for one broker, restarted or not.
    """
    host = cast(Any, ray).remote(num_cpus=0, max_concurrency=10_000)(ServeHost)
    return host.remote(broker, owner)
