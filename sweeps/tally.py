"""Counts of stages by kind, kept as they change state: what a snapshot of the board is made of.

`Tally` never looks at the whole graph. Of the stages of a kind that are planned it knows which
could run, which wait until a time, and which lack inputs, and of what kinds those inputs are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sweeps.events import State, Waiting, WaitReason, Work
from sweeps.nodes import LEFT, Node
from w2s.stages.base import Lane

TURNS: Mapping[Lane, str] = {
    "train": "a free worker group",
    "light": "a free process",
    "serve": "a turn with the served models",
}
"""What stages of a lane wait for that could run, unless more is known."""
MAX_NAMES = 3
"""Kinds of inputs that are told."""


@dataclass(slots=True)
class _Kind:
    """The stages of one kind."""

    lane: Lane
    counts: Counter[State] = field(default_factory=Counter)
    cost_done: float = 0.0
    seconds_done: float = 0.0
    number_done: int = 0
    cost_left: float = 0.0
    queued: dict[WaitReason, dict[str, None]] = field(
        default_factory=lambda: {"inputs": {}, "turn": {}, "time": {}}
    )
    """Keys of the planned ones by what they wait for, in order."""
    lacks: dict[str, Counter[str]] = field(default_factory=dict)
    """Missing inputs of planned ones: by kind, how many of them read each."""


class Tally:
    """What `Board` counts; it is told of every change of a node."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        """Args: nodes: those of the board, by key."""
        self._nodes = nodes
        self._kinds: dict[str, _Kind] = {}

    # What changes

    def enter(self, node: Node) -> None:
        """A node is new."""
        self._kind(node).counts[node.state] += 1

    def move(self, node: Node, before: State) -> None:
        """A node is in another state than before."""
        kind = self._kind(node)
        kind.counts[before] -= 1
        kind.counts[node.state] += 1
        kind.cost_left += node.cost * ((node.state in LEFT) - (before in LEFT))

    def took(self, node: Node, seconds: float) -> None:
        """A stage ran to its end here."""
        kind = self._kind(node)
        kind.cost_done += node.cost
        kind.seconds_done += seconds
        kind.number_done += 1

    def queue(self, node: Node, reason: WaitReason) -> None:
        """A planned stage waits for this."""
        self._kind(node).queued[reason][node.stage.key] = None

    def unqueue(self, node: Node) -> None:
        """A stage waits no more, or for something else."""
        for keys in self._kind(node).queued.values():
            keys.pop(node.stage.key, None)

    def lack(self, node: Node, source: Node) -> None:
        """An input of a planned stage is not there."""
        kinds = self._kind(node).lacks
        kinds.setdefault(source.stage.kind, Counter())[source.stage.key] += 1

    def lack_no_more(self, node: Node, source: Node) -> None:
        """An input is there, or the stage is planned no more."""
        lacks = self._kind(node).lacks
        keys = lacks[source.stage.kind]
        keys[source.stage.key] -= 1
        if not keys[source.stage.key]:
            del keys[source.stage.key]
        if not keys:
            del lacks[source.stage.kind]

    # What is told

    def counts(self) -> dict[str, dict[State, int]]:
        """Stages by kind and state."""
        return {
            name: {state: count for state, count in kind.counts.items() if count}
            for name, kind in self._kinds.items()
        }

    def work(self) -> dict[str, Work]:
        """Cost and time by kind."""
        found = {}
        for name, kind in self._kinds.items():
            number_left = kind.counts["planned"] + kind.counts["running"]
            found[name] = Work(
                lane=kind.lane,
                cost_done=kind.cost_done,
                seconds_done=kind.seconds_done,
                # Sums of many floats do not come back to zero by themselves.
                cost_left=max(0.0, kind.cost_left) if number_left else 0.0,
                number_done=kind.number_done,
                number_left=number_left,
            )
        return found

    def seconds_per_stage(self, name: str) -> float | None:
        """Mean time that stages of a kind took; None: none ended yet."""
        kind = self._kinds.get(name)
        return kind.seconds_done / kind.number_done if kind and kind.number_done else None

    def waiting(self, turns: Mapping[Lane, str]) -> tuple[Waiting, ...]:
        """What waits, by kind and reason.

        Args:
            turns: what ready stages of a lane wait for, where more is known than `TURNS` says.
        """
        found = []
        for name, kind in self._kinds.items():
            for reason, keys in kind.queued.items():
                if keys:
                    first = self._nodes[next(iter(keys))]
                    lacks = kind.lacks.items() if reason == "inputs" else ()
                    what, until = self._what(first, reason, lacks, turns)
                    found.append(Waiting(name, len(keys), first.stage.name, reason, what, until))
        return tuple(found)

    # Inside

    def _kind(self, node: Node) -> _Kind:
        kind = self._kinds.get(node.stage.kind)
        if kind is None:
            kind = self._kinds[node.stage.kind] = _Kind(node.stage.lane)
        return kind

    def _what(
        self,
        node: Node,
        reason: WaitReason,
        lacks: Iterable[tuple[str, Mapping[str, object]]],
        turns: Mapping[Lane, str],
    ) -> tuple[str, float]:
        if reason == "inputs":
            words = [
                self._nodes[next(iter(keys))].stage.name
                if len(keys) == 1
                else f"{len(keys)} {name}"
                for name, keys in lacks
            ]
            more = ["other stages"] if len(words) > MAX_NAMES else []
            return ", ".join([*words[:MAX_NAMES], *more]), 0.0
        if reason == "time":
            return f"another attempt ({node.cause or 'it stopped'})", node.not_before
        lane = node.stage.lane
        return turns.get(lane, TURNS[lane]), 0.0
