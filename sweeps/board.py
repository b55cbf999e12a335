"""The broker's book: which stages are asked for, by whom, in which state, and which comes next.

`Board` is a graph of `Node`s, one per key, and a set of requests that await some of them. It holds
no process, no clock and no Ray: the broker tells it what happened (`add`, `start`, `finish`,
`fail`, `requeue`, `release`) and asks it what is ready (`ready`, `best`). Whatever reaches an end
is written to `events`.

A node is awaited by requests; a request awaits its stages and everything they need. What nobody
awaits and does not run is cancelled. A failure reaches every request that awaits the stage or
something made from it; all else goes on.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sweeps.events import BrokerSnapshot, EndState, RunningStage, StageEvent, StageRecord, State
from w2s.errors import StageFailed
from w2s.stages.base import Lane, Stage, closure

WARM_BONUS = 1.5
"""How much longer a path must be to beat a stage whose base model the gang holds."""


@dataclass(slots=True)
class Node:
    """A stage that was asked for."""

    stage: Stage
    cost: float = 0.0
    """Its estimated cost, asked for once."""
    state: State = "planned"
    inputs: frozenset[str] = frozenset()
    """Keys of the stages it reads."""
    dependents: set[str] = field(default_factory=set)
    """Keys of the nodes that read it."""
    waiters: set[int] = field(default_factory=set)
    """Requests that await it."""
    path_cost: float = 0.0
    """Cost of the most expensive chain of stages from here on."""
    attempts: int = 0
    """How often it was started."""
    failure: StageFailed | None = None
    """Why it failed, or why an input did."""
    started: float = 0.0
    progress: tuple[int, int, Mapping[str, float]] = (0, 0, {})


@dataclass(slots=True)
class Request:
    """What one caller awaits."""

    roots: tuple[str, ...]
    nodes: set[str]
    """The roots and all they need, where the store does not have it."""
    failure: StageFailed | None = None


class Board:
    """State of all stages of a driver run."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Args: clock: Unix time in seconds."""
        self.nodes: dict[str, Node] = {}
        self.requests: dict[int, Request] = {}
        self.events: list[StageEvent] = []
        self._clock = clock
        self._next_request = 0
        self._cost_done = 0.0

    # What callers want

    def add(self, roots: Iterable[Stage], present: Collection[str]) -> int:
        """Register a request.

        Args:
            roots: stages the caller awaits.
            present: keys the store has, among the closure of the roots.

        Returns:
            Number of the request.
        """
        roots = list(roots)
        number = self._next_request
        self._next_request += 1
        request = Request(roots=tuple(stage.key for stage in roots), nodes=set())
        self.requests[number] = request
        stages = closure(roots)
        needed = self._needed(request.roots, stages, present)
        for key, stage in stages.items():
            if key in present and (
                key not in self.nodes or self.nodes[key].state in ("cancelled", "failed")
            ):
                self.nodes[key] = Node(stage, stage.cost(), state="cached")
                self._log(self.nodes[key], "cached")
            elif key in needed:
                self._plan(stage)
        for key in needed:
            node = self.nodes[key]
            node.waiters.add(number)
            request.nodes.add(key)
        for key in reversed([key for key in stages if key in needed]):
            self._raise_path_cost(self.nodes[key])
        for key in stages:
            if key in needed and (failure := self.nodes[key].failure):
                self._cancel_dependents(self.nodes[key], failure)
                request.failure = request.failure or failure
        return number

    def release(self, number: int) -> list[str]:
        """Drop a request; cancels what nobody awaits any more.

        Returns:
            Keys of running stages that nobody awaits any more.
        """
        request = self.requests.pop(number, None)
        orphans: list[str] = []
        for key in request.nodes if request else ():
            node = self.nodes[key]
            node.waiters.discard(number)
            if node.waiters:
                continue
            if node.state == "planned":
                self._end(node, "cancelled", cause="nobody awaits it any more")
            elif node.state == "running":
                orphans.append(key)
        return orphans

    def is_settled(self, number: int) -> bool:
        """Whether a request failed or has everything."""
        request = self.requests[number]
        return request.failure is not None or all(
            self.nodes[key].state in ("cached", "done") for key in request.roots
        )

    # What happened

    def start(self, key: str) -> None:
        """A stage began to run."""
        node = self.nodes[key]
        node.state = "running"
        node.attempts += 1
        node.started = self._clock()
        node.progress = (0, 0, {})

    def report(self, key: str, step: int, total: int, metrics: Mapping[str, float]) -> bool:
        """A stage made progress; returns whether anybody still awaits it."""
        node = self.nodes[key]
        if node.state == "running":
            node.progress = (step, total, metrics or node.progress[2])
        return bool(node.waiters)

    def finish(self, key: str, record: StageRecord) -> None:
        """The artifact of a stage is in the store."""
        node = self.nodes[key]
        self._cost_done += node.cost
        self._end(node, "done", record=record)

    def fail(self, key: str, cause: str, traceback: str = "") -> None:
        """A stage raised an error; who awaits it, or what is made from it, gets the cause."""
        node = self.nodes[key]
        node.failure = StageFailed(key, node.stage.name, cause)
        self._end(node, "failed", cause=cause, traceback=traceback)
        self._cancel_dependents(node, node.failure)
        for request in self.requests.values():
            if key in request.nodes and request.failure is None:
                request.failure = node.failure

    def requeue(self, key: str) -> None:
        """A stage stopped without a result of its own: its worker died, or nobody awaited it."""
        node = self.nodes[key]
        node.state = "planned"
        if not node.waiters:
            self._end(node, "cancelled", cause="nobody awaits it any more")

    # What comes next

    def planned(self, lane: Lane) -> Iterator[Node]:
        """Stages of a lane that will have to run."""
        return (
            node
            for node in self.nodes.values()
            if node.state == "planned" and node.stage.lane == lane
        )

    def ready(self, lane: Lane) -> list[Node]:
        """Planned stages whose inputs are all there, the most urgent first."""
        ready = [node for node in self.planned(lane) if self._has_inputs(node)]
        return sorted(ready, key=lambda node: (-node.path_cost, -len(node.waiters)))

    @staticmethod
    def best(ready: Collection[Node], base_model: str | None) -> Node:
        """The stage a gang should take: longest path, most requests; a held model counts."""

        def urgency(node: Node) -> tuple[float, int]:
            held = base_model is not None and node.stage.base_model == base_model
            return (node.path_cost + 1.0) * (WARM_BONUS if held else 1.0), len(node.waiters)

        return max(ready, key=urgency)

    def snapshot(self, gangs: int = 0, served: tuple[str, ...] = ()) -> BrokerSnapshot:
        """The state of everything now."""
        counts: dict[str, Counter[State]] = defaultdict(Counter)
        running: list[RunningStage] = []
        cost_left = 0.0
        for key, node in self.nodes.items():
            counts[node.stage.kind][node.state] += 1
            step, total, metrics = node.progress
            if node.state == "running":
                stage = node.stage
                running.append(
                    RunningStage(
                        key=key,
                        name=stage.name,
                        kind=stage.kind,
                        lane=stage.lane,
                        started=node.started,
                        step=step,
                        total=total,
                        metrics=dict(metrics),
                        cost=node.cost,
                    )
                )
                cost_left += node.cost * (1 - min(1.0, step / total) if total else 1.0)
            elif node.state == "planned":
                cost_left += node.cost
        return BrokerSnapshot(
            time=self._clock(),
            counts={kind: dict(by_state) for kind, by_state in counts.items()},
            running=tuple(sorted(running, key=lambda stage: stage.started)),
            gangs=gangs,
            served=served,
            cost_done=self._cost_done,
            cost_left=cost_left,
            num_events=len(self.events),
        )

    # Inside

    def _needed(
        self, roots: Iterable[str], stages: Mapping[str, Stage], present: Collection[str]
    ) -> set[str]:
        """Roots, and the inputs of what has to be computed; what is there needs no inputs."""
        needed: set[str] = set()
        todo = list(roots)
        while todo:
            key = todo.pop()
            if key in needed:
                continue
            needed.add(key)
            known = self.nodes.get(key)
            if key not in present and not (known and known.state in ("cached", "done")):
                todo.extend(source.key for source in stages[key].inputs)
        return needed

    def _plan(self, stage: Stage) -> None:
        node = self.nodes.get(stage.key)
        if node is None:
            node = Node(
                stage, stage.cost(), inputs=frozenset(source.key for source in stage.inputs)
            )
            self.nodes[stage.key] = node
        elif node.state == "cancelled":
            node.state, node.failure = "planned", None
        if node.state == "planned":
            for source in node.inputs:
                self.nodes[source].dependents.add(stage.key)

    def _raise_path_cost(self, node: Node) -> None:
        """Called for dependents before their inputs."""
        below = [self.nodes[key].path_cost for key in node.dependents]
        node.path_cost = node.cost + max(below, default=0.0)

    def _has_inputs(self, node: Node) -> bool:
        return all(self.nodes[key].state in ("cached", "done") for key in node.inputs)

    def _cancel_dependents(self, node: Node, failure: StageFailed) -> None:
        for key in node.dependents:
            dependent = self.nodes[key]
            if dependent.state == "planned":
                dependent.failure = failure
                self._end(dependent, "cancelled", cause=str(failure))
                self._cancel_dependents(dependent, failure)

    def _end(
        self,
        node: Node,
        state: EndState,
        record: StageRecord | None = None,
        cause: str = "",
        traceback: str = "",
    ) -> None:
        node.state = state
        self._log(node, state, record, cause, traceback)

    def _log(
        self,
        node: Node,
        state: EndState,
        record: StageRecord | None = None,
        cause: str = "",
        traceback: str = "",
    ) -> None:
        stage = node.stage
        self.events.append(
            StageEvent(
                index=len(self.events),
                state=state,
                key=stage.key,
                name=stage.name,
                kind=stage.kind,
                time=self._clock(),
                record=record,
                cause=cause,
                traceback=traceback,
            )
        )
