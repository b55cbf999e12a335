"""The broker's book: which stages are asked for, by whom, in which state, and which comes next.

`Board` is a graph of `Node`s, one per key, and a set of requests that await some of them. It holds
no process and no Ray: the broker tells it what happened (`add`, `start`, `finish`, `fail`,
`requeue`, `release`, `forget`) and asks it what comes next (`best`, `ready`). Whatever reaches an
end is written to a log, which holds the last entry of each stage.

A node is awaited by requests; a request awaits its stages and everything they need. What nobody
awaits and does not run is cancelled. A failure reaches every request that awaits the stage or
something made from it; all else goes on.

What is ready lies in queues (`sweeps.queues`) and every count is kept as stages change state
(`sweeps.tally`): an event costs time by the neighbours of its stage, not by the size of the graph.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from sweeps.events import (
    BrokerSnapshot,
    EndState,
    RunningStage,
    StageEvent,
    StageRecord,
    State,
)
from sweeps.nodes import THERE, Node, Request
from sweeps.queues import Lanes
from sweeps.resources import Execution
from sweeps.tally import Tally
from w2s.errors import StageFailed
from w2s.stages.base import Lane, Stage, closure

MAX_CURVES = 1000
"""Curves that the log keeps: those of the stages that ended last. Drivers read it twice a second;
the store has them all."""
UNAWAITED = "nobody awaits it any more"


class Board:
    """State of all stages that were asked for."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        on_settled: Callable[[int], None] = lambda number: None,
    ) -> None:
        """Start with an empty book.

        Args:
            clock: Unix time in seconds.
            on_settled: called with the number of a request once it failed or has everything, where
                that was not so when it was added.
        """
        self.nodes: dict[str, Node] = {}
        self.requests: dict[int, Request] = {}
        self._clock = clock
        self._on_settled = on_settled
        self._next_request = 0
        self._log: dict[str, StageEvent] = {}
        self._num_events = 0
        self._curves: deque[str] = deque()
        self._running: dict[str, Node] = {}
        self._tally = Tally(self.nodes)
        self._lanes = Lanes(self.nodes, self._tally, clock)

    # What callers want

    def unknown(self, roots: Iterable[Stage]) -> list[Stage]:
        """The stages among the closure of `roots` of which the board does not know the state.

        The store has to be asked for these before `add`.
        """
        return [
            stage
            for key, stage in self._reach(roots).items()
            if key not in self.nodes or self.nodes[key].state in ("cancelled", "failed")
        ]

    def add(self, roots: Iterable[Stage], present: Collection[str], execution: Execution) -> int:
        """Register a request.

        Args:
            roots: stages the caller awaits.
            present: keys the store has, among the `unknown` ones.
            execution: how stages run that nobody asked for before.

        Returns:
            Number of the request.
        """
        roots = list(roots)
        number = self._next_request
        self._next_request += 1
        self.requests[number] = Request(tuple(stage.key for stage in roots))
        request = self.requests[number]
        request.failure = self._want({number}, roots, present, self._lanes.same(execution))
        request.left = {key for key in request.roots if not self.nodes[key].is_there}
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
                self._end(node, "cancelled", cause=UNAWAITED)
            elif node.state == "running":
                orphans.append(key)
        return orphans

    def is_settled(self, number: int) -> bool:
        """Whether a request failed or has everything."""
        return self.requests[number].is_settled

    def forget(self, key: str, present: Collection[str] = ()) -> None:
        """Plan a stage again that ended: its artifact is damaged, or it shall have another chance.

        What reads it and did not run yet waits for it; a stage that read it in vain is put back by
        `requeue`. Where nobody awaits it, it is planned when somebody asks for it.

        Args:
            key: the stage.
            present: keys the store has, among the closure of its inputs.
        """
        node = self.nodes.get(key)
        if node is None or node.state in ("planned", "running", "cancelled"):
            return
        readers = (self.nodes[reader] for reader in node.dependents)
        numbers = {
            number
            for reader in readers
            if reader.state in ("planned", "running")
            for number in reader.waiters
        }
        for number, request in self.requests.items():
            if key in request.roots and not request.is_settled:
                request.left.add(key)
                numbers.add(number)
        node.failure = None
        self._move(node, "cancelled")
        if numbers and (failure := self._want(numbers, [node.stage], present, node.execution)):
            for number in numbers:
                self._fail_request(number, failure)

    def forget_failures(self) -> None:
        """Give every stage that failed another chance the next time somebody asks for it."""
        for node in self.nodes.values():
            if node.state == "failed":
                self.forget(node.stage.key)

    # What happened

    def start(self, key: str) -> None:
        """A stage began to run."""
        node = self.nodes[key]
        node.attempts += 1
        node.started = self._clock()
        node.progress = (0, 0, {})
        node.waits_for = ""
        self._move(node, "running")

    def report(self, key: str, step: int, total: int, metrics: Mapping[str, float]) -> bool:
        """A stage made progress; returns whether anybody still awaits it."""
        node = self.nodes[key]
        if node.state == "running":
            node.progress = (step, total, metrics or node.progress[2])
            node.waits_for = ""
        return bool(node.waiters)

    def hold(self, key: str, what: str) -> None:
        """A stage that was started waits for something, such as a model that comes up."""
        self.nodes[key].waits_for = what

    def finish(self, key: str, record: StageRecord) -> None:
        """The artifact of a stage is in the store."""
        node = self.nodes[key]
        if node.started <= record.started:  # else the store had it from another sweep
            self._tally.took(node, record.wall_s)
        node.failure = None
        self._end(node, "done", record=record)

    def found(self, key: str) -> None:
        """The store has the artifact of a stage that was started here, from another cluster."""
        node = self.nodes[key]
        node.attempts -= 1
        node.failure = None
        self._end(node, "cached")

    def fail(self, key: str, cause: str, traceback: str = "") -> None:
        """A stage raised an error; who awaits it, or what is made from it, gets the cause."""
        node = self.nodes[key]
        node.failure = StageFailed(key, node.stage.name, cause)
        self._end(node, "failed", cause=cause, traceback=traceback)
        self._cancel_dependents(node, node.failure)
        for number in list(node.waiters):
            self._fail_request(number, node.failure)

    def requeue(self, key: str, cause: str = "", delay_s: float = 0.0) -> None:
        """A stage shall run again: its worker died, an error may have gone, nobody awaited it.

        Args:
            key: the stage.
            cause: why, in words.
            delay_s: seconds before which it is not ready.
        """
        node = self.nodes[key]
        node.cause = cause
        node.not_before = self._clock() + delay_s if delay_s > 0 else 0.0
        if not node.waiters:
            self._end(node, "cancelled", cause=UNAWAITED)
        elif failure := self._failure_of_inputs(node):
            node.failure = failure
            self._end(node, "cancelled", cause=str(failure))
        else:
            self._move(node, "planned")

    # What comes next

    def best(
        self, lane: Lane, execution: Execution | None = None, base_model: str | None = None
    ) -> Node | None:
        """The most urgent stage that could run now: longest path, then most requests.

        Args:
            lane: where it runs.
            execution: how it runs; None: any.
            base_model: key of the model that a gang holds, whose stages count for more.

        Returns:
            None where nothing is ready.
        """
        return self._lanes.best(lane, execution, base_model)

    def ready(self, lane: Lane, execution: Execution | None = None) -> list[Node]:
        """Planned stages whose inputs are all there, the most urgent first."""
        return [node for queue in self._lanes.ready(lane, execution) for node in queue.in_order()]

    def num_ready(self, lane: Lane, execution: Execution | None = None) -> int:
        """How many stages could run now."""
        return sum(map(len, self._lanes.ready(lane, execution)))

    def planned(self, lane: Lane, execution: Execution | None = None) -> list[Node]:
        """Stages that will have to run."""
        return [node for nodes in self._lanes.planned(lane, execution) for node in nodes.values()]

    def num_planned(self, lane: Lane, execution: Execution | None = None) -> int:
        """How many stages will have to run."""
        return sum(map(len, self._lanes.planned(lane, execution)))

    def seconds_per_stage(self, kind: str) -> float | None:
        """Mean time that stages of a kind took here; None: none ended yet."""
        return self._tally.seconds_per_stage(kind)

    # What is told

    def events_after(self, index: int) -> list[StageEvent]:
        """The last event of each stage that reached an end, from this index on, in order."""
        found: list[StageEvent] = []
        for event in reversed(self._log.values()):
            if event.index < index:
                break
            found.append(event)
        return found[::-1]

    def snapshot(
        self,
        gangs: int = 0,
        served: tuple[str, ...] = (),
        turns: Mapping[Lane, str] | None = None,
    ) -> BrokerSnapshot:
        """The state of everything now.

        Args:
            gangs: worker groups that are up or starting.
            served: names of the models that are up or starting.
            turns: what ready stages of a lane wait for, in words.
        """
        self._lanes.look_at_clock()
        return BrokerSnapshot(
            time=self._clock(),
            counts=self._tally.counts(),
            running=tuple(
                sorted(map(_running, self._running.values()), key=lambda stage: stage.started)
            ),
            gangs=gangs,
            served=served,
            waiting=self._tally.waiting(turns or {}),
            work=self._tally.work(),
            path_cost=self._lanes.longest_path(),
            num_events=self._num_events,
        )

    # Inside: requests

    def _is_there(self, stage: Stage) -> bool:
        node = self.nodes.get(stage.key)
        return node is not None and node.is_there

    def _reach(self, roots: Iterable[Stage]) -> dict[str, Stage]:
        """Stages and all they are made from, inputs first, but not below what is there."""
        return closure(roots, leaf=self._is_there)

    def _want(
        self,
        numbers: set[int],
        roots: list[Stage],
        present: Collection[str],
        execution: Execution,
    ) -> StageFailed | None:
        """Let requests await stages and everything that these need; returns what failed of it."""
        stages = self._reach(roots)
        needed = self._needed(roots, present)
        order = [key for key in stages if key in needed]
        for key, stage in stages.items():
            node = self.nodes.get(key)
            if key in present and (node is None or node.state not in ("running", *THERE)):
                node = node or self._new(stage, execution)
                node.failure = None
                self._end(node, "cached")
            elif key in needed:
                self._plan(stage, execution)
        for key in order:
            self.nodes[key].waiters |= numbers
            for number in numbers:
                self.requests[number].nodes[key] = None
        for key in reversed(order):
            node = self.nodes[key]
            node.path_cost = max(node.path_cost, node.cost)
            for source in node.inputs:
                if source in needed:
                    above = self.nodes[source]
                    above.path_cost = max(above.path_cost, above.cost + node.path_cost)
        for key in order:
            node = self.nodes[key]
            if node.state == "planned":
                self._lanes.update(node)
        failures = (self.nodes[key].failure for key in order)
        return next((failure for failure in failures if failure), None)

    def _needed(self, roots: Iterable[Stage], present: Collection[str]) -> set[str]:
        """Roots, and the inputs of what has to be computed; what is there needs no inputs."""
        needed: set[str] = set()
        todo = list(roots)
        while todo:
            stage = todo.pop()
            if stage.key in needed:
                continue
            needed.add(stage.key)
            if stage.key not in present and not self._is_there(stage):
                todo.extend(stage.inputs)
        return needed

    def _plan(self, stage: Stage, execution: Execution) -> None:
        """Plan a stage whose inputs are planned, unless one of them failed."""
        node = self.nodes.get(stage.key)
        if node is not None and node.state != "cancelled":
            return
        is_new = node is None
        node = node or self._new(stage, execution)
        if failure := self._failure_of_inputs(node):
            node.failure = failure
            if is_new:
                self._end(node, "cancelled", cause=str(failure))
            return
        node.failure, node.execution = None, execution
        node.not_before, node.cause = 0.0, ""
        for source in node.inputs:
            self.nodes[source].dependents[stage.key] = None
        self._move(node, "planned")

    def _new(self, stage: Stage, execution: Execution) -> Node:
        node = Node(
            stage,
            execution,
            number=len(self.nodes),
            cost=stage.cost(),
            inputs=tuple(source.key for source in stage.inputs),
        )
        self.nodes[stage.key] = node
        self._tally.enter(node)
        return node

    def _failure_of_inputs(self, node: Node) -> StageFailed | None:
        inputs = (self.nodes[key] for key in node.inputs)
        return next((source.failure for source in inputs if source.failure), None)

    def _cancel_dependents(self, node: Node, failure: StageFailed) -> None:
        todo = [node]
        while todo:
            for key in todo.pop().dependents:
                dependent = self.nodes[key]
                if dependent.state == "planned":
                    dependent.failure = failure
                    self._end(dependent, "cancelled", cause=str(failure))
                    todo.append(dependent)

    def _fail_request(self, number: int, failure: StageFailed) -> None:
        request = self.requests[number]
        if request.failure is None:
            request.failure = failure
            self._on_settled(number)

    # Inside: states

    def _end(
        self,
        node: Node,
        state: EndState,
        record: StageRecord | None = None,
        cause: str = "",
        traceback: str = "",
    ) -> None:
        stage = node.stage
        self._log.pop(stage.key, None)  # so that the log is in the order of its indices
        self._log[stage.key] = StageEvent(
            index=self._num_events,
            state=state,
            key=stage.key,
            name=stage.name,
            kind=stage.kind,
            time=self._clock(),
            record=record,
            cause=cause,
            traceback=traceback,
        )
        self._num_events += 1
        if record is not None and record.curve:
            self._curves.append(stage.key)
            if len(self._curves) > MAX_CURVES:
                old = self._curves.popleft()
                self._log[old] = self._log[old].without_curve()
        self._move(node, state)
        if node.is_there:
            for number in list(node.waiters):
                request = self.requests[number]
                if node.stage.key in request.left:
                    request.left.remove(node.stage.key)
                    if not request.left and request.failure is None:
                        self._on_settled(number)

    def _move(self, node: Node, state: State) -> None:
        """Change the state of a node, and all that follows from it for others."""
        before, was_there = node.state, node.is_there
        if before == "planned":
            self._lanes.leave(node)
        elif before == "running":
            del self._running[node.stage.key]
        node.state = state
        self._tally.move(node, before)
        if state == "planned":
            self._lanes.enter(node)
        elif state == "running":
            self._running[node.stage.key] = node
        if node.is_there != was_there:
            for key in node.dependents:
                if self.nodes[key].state == "planned":
                    self._lanes.input_changed(self.nodes[key], node)


def _running(node: Node) -> RunningStage:
    stage = node.stage
    step, total, metrics = node.progress
    return RunningStage(
        key=stage.key,
        name=stage.name,
        kind=stage.kind,
        lane=stage.lane,
        started=node.started,
        step=step,
        total=total,
        metrics=dict(metrics),
        cost=node.cost,
        path_cost=node.path_cost,
        waits_for=node.waits_for,
    )
