"""What the broker knows of those who call it: drivers, what they asked for, what they were told."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sweeps.board import Board
from sweeps.events import EndState, StageEvent
from sweeps.nodes import Node
from sweeps.resources import Execution
from w2s.stages.base import Stage


class EventLog:
    """What ended among the stages that one driver asked for, until it has read that."""

    def __init__(self) -> None:
        """Start empty."""
        self._keys: set[str] = set()
        self._events: list[StageEvent] = []
        self._number = 0

    def add(self, event: StageEvent) -> bool:
        """A stage ended; False: the driver did not ask for it."""
        if event.key not in self._keys:
            return False
        self._events.append(replace(event, index=self._number))
        self._number += 1
        return True

    def ask(self, stages: Mapping[str, Stage], board: Board) -> None:
        """The driver asked for these; what had ended before, ended so for it too."""
        for key in stages:
            if key in self._keys:
                continue
            self._keys.add(key)
            node = board.nodes.get(key)
            if node is not None and node.is_there:
                self.add(_event(node, "cached"))
            elif node is not None and node.failure is not None:
                state = "failed" if node.state == "failed" else "cancelled"
                self.add(_event(node, state, node.failure.cause))

    def after(self, index: int) -> list[StageEvent]:
        """The events from this index on; the driver has read those before, which go."""
        self._events = [event for event in self._events if event.index >= index]
        return self._events


def _event(node: Node, state: EndState, cause: str = "") -> StageEvent:
    stage = node.stage
    return StageEvent(0, state, stage.key, stage.name, stage.kind, time.time(), cause=cause)


@dataclass(slots=True)
class Driver:
    """A run of `w2s` that uses the broker."""

    execution: Execution
    seen: float
    """Time of its last sign of life, in seconds of the broker's own clock."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Name of this entry: a driver that was forgotten gets another, with a new log."""
    known: dict[str, Stage] = field(default_factory=dict)
    """Stages that its trials ask for by key."""
    log: EventLog = field(default_factory=EventLog)
    noticed: list[str] = field(default_factory=list)
    """What was lost and made good among its stages, in words."""


@dataclass(slots=True)
class Request:
    """What a caller awaits."""

    driver: str
    caller: str
    number: int
    """On the board."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it failed or has everything."""
