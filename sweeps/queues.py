"""Planned stages by lane and execution, and which of them comes next.

`Lanes` puts each planned stage where it belongs: ready, waiting for inputs, or waiting for a time.
`LaneQueue` holds what is ready as a heap whose entries are not removed when a stage leaves or
becomes more urgent: an entry that no longer tells the truth is passed over when it comes up, and
the heap is made anew when most of it is such. A second heap per base model says what a gang that
holds one should take.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import TypeVar

from sweeps.nodes import Node
from sweeps.resources import Execution
from sweeps.tally import Tally
from w2s.stages.base import Lane

_T = TypeVar("_T")

WARM_BONUS = 1.5
"""How much longer a path must be to beat a stage whose base model the gang holds."""
MIN_STALE = 64
"""Entries that a heap may hold for nothing before it is made anew."""

_Urgency = tuple[float, int, int]
"""Longest path first, then most requests, then the order in which stages were asked for."""
_Heap = list[tuple[_Urgency, str]]


class LaneQueue:
    """The ready stages of one lane and execution."""

    def __init__(self) -> None:
        """Start empty."""
        self._nodes: dict[str, Node] = {}
        self._urgency: dict[str, _Urgency] = {}
        self._heaps: dict[str | None, _Heap] = {}

    def __len__(self) -> int:
        """Ready stages."""
        return len(self._nodes)

    def push(self, node: Node) -> None:
        """Add a stage."""
        self._nodes[node.stage.key] = node
        self.update(node)

    def update(self, node: Node) -> None:
        """A stage that may be in the queue may have become more urgent."""
        key = node.stage.key
        urgency = (-node.path_cost, -len(node.waiters), node.number)
        if key not in self._nodes or self._urgency.get(key) == urgency:
            return
        self._urgency[key] = urgency
        self._put(None, (urgency, key))
        if (model := node.stage.base_model) is not None:
            self._put(model, (urgency, key))

    def discard(self, key: str) -> None:
        """Take a stage out, if it is there."""
        if self._nodes.pop(key, None) is not None:
            del self._urgency[key]

    def in_order(self) -> list[Node]:
        """All of them, the most urgent first."""
        return sorted(self._nodes.values(), key=lambda node: self._urgency[node.stage.key])

    def best(self, base_model: str | None = None) -> Node | None:
        """The most urgent stage; one with the given base model counts for more. None: none."""
        best = self._top(None)
        warm = None if base_model is None else self._top(base_model)
        if best is None or warm is None:
            return best
        longer = best.path_cost + 1.0 > WARM_BONUS * (warm.path_cost + 1.0)
        return best if longer else warm

    def _put(self, model: str | None, entry: tuple[_Urgency, str]) -> None:
        heap = self._heaps.setdefault(model, [])
        heapq.heappush(heap, entry)
        if len(heap) > 2 * len(self._nodes) + MIN_STALE:
            heap[:] = filter(self._is_true, heap)
            heapq.heapify(heap)

    def _top(self, model: str | None) -> Node | None:
        heap = self._heaps.get(model)
        while heap:
            if self._is_true(heap[0]):
                return self._nodes[heap[0][1]]
            heapq.heappop(heap)
        self._heaps.pop(model, None)
        return None

    def _is_true(self, entry: tuple[_Urgency, str]) -> bool:
        return self._urgency.get(entry[1]) == entry[0]


class Lanes:
    """All planned stages; told by the board of every change of theirs."""

    def __init__(self, nodes: Mapping[str, Node], tally: Tally, clock: Callable[[], float]) -> None:
        """Start empty.

        Args:
            nodes: those of the board, by key.
            tally: is told what waits for what.
            clock: Unix time in seconds.
        """
        self._nodes = nodes
        self._tally = tally
        self._clock = clock
        self._executions: list[Execution] = []
        self._queues: dict[tuple[Lane, int], LaneQueue] = {}
        self._planned: dict[tuple[Lane, int], dict[str, Node]] = {}
        self._delayed: list[tuple[float, str]] = []

    def same(self, execution: Execution) -> Execution:
        """The equal one that is known: executions arrive as copies."""
        for known in self._executions:
            if known == execution:
                return known
        self._executions.append(execution)
        return execution

    def enter(self, node: Node) -> None:
        """A stage was planned."""
        self._planned.setdefault(_place(node), {})[node.stage.key] = node
        lacking = [source for key in node.inputs if not (source := self._nodes[key]).is_there]
        for source in lacking:
            self._tally.lack(node, source)
        node.missing = len(lacking)
        self._put(node)

    def leave(self, node: Node) -> None:
        """A stage is planned no more."""
        for key in node.inputs if node.missing else ():
            if not self._nodes[key].is_there:
                self._tally.lack_no_more(node, self._nodes[key])
        del self._planned[_place(node)][node.stage.key]
        self._queue(node).discard(node.stage.key)
        self._tally.unqueue(node)

    def update(self, node: Node) -> None:
        """A stage may have become more urgent."""
        self._queue(node).update(node)

    def input_changed(self, node: Node, source: Node) -> None:
        """An input of a planned stage came to be there, or is there no more."""
        if source.is_there:
            self._tally.lack_no_more(node, source)
            node.missing -= 1
        else:
            self._tally.lack(node, source)
            node.missing += 1
        if node.missing == (0 if source.is_there else 1):
            self._put(node)

    def look_at_clock(self) -> None:
        """Let stages whose time has come be ready."""
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            _, key = heapq.heappop(self._delayed)
            node = self._nodes[key]
            if node.state == "planned" and 0.0 < node.not_before <= now:
                self._put(node)

    def best(self, lane: Lane, execution: Execution | None, base_model: str | None) -> Node | None:
        """See `Board.best`."""
        found = [queue.best(base_model) for queue in self.ready(lane, execution)]
        return max((n for n in found if n), key=lambda node: node.path_cost, default=None)

    def ready(self, lane: Lane, execution: Execution | None) -> list[LaneQueue]:
        """The queues of what could run now."""
        self.look_at_clock()
        return self._of(self._queues, lane, execution)

    def planned(self, lane: Lane, execution: Execution | None) -> list[dict[str, Node]]:
        """What will have to run, by key."""
        return self._of(self._planned, lane, execution)

    def longest_path(self) -> float:
        """Cost of the most expensive chain of stages that begins with a ready one."""
        best = [queue.best() for queue in self._queues.values()]
        return max((node.path_cost for node in best if node), default=0.0)

    def _put(self, node: Node) -> None:
        """Where a planned stage belongs: it is ready, or waits for inputs, or for a time."""
        self._tally.unqueue(node)
        self._queue(node).discard(node.stage.key)
        if node.missing:
            self._tally.queue(node, "inputs")
        elif node.not_before > self._clock():
            self._tally.queue(node, "time")
            heapq.heappush(self._delayed, (node.not_before, node.stage.key))
        else:
            node.not_before = 0.0
            self._tally.queue(node, "turn")
            self._queue(node).push(node)

    def _queue(self, node: Node) -> LaneQueue:
        return self._queues.setdefault(_place(node), LaneQueue())

    def _of(
        self, places: Mapping[tuple[Lane, int], _T], lane: Lane, execution: Execution | None
    ) -> list[_T]:
        """What is kept for a lane of one execution, or of all."""
        executions = self._executions if execution is None else [self.same(execution)]
        keys: list[tuple[Lane, int]] = [(lane, id(execution)) for execution in executions]
        return [places[key] for key in keys if key in places]


def _place(node: Node) -> tuple[Lane, int]:
    return node.stage.lane, id(node.execution)
