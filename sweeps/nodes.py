"""Entries of the broker's book: a stage that was asked for, and a request that awaits some."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sweeps.events import State
from sweeps.resources import Execution
from w2s.errors import StageFailed
from w2s.stages.base import Stage

THERE = ("cached", "done")
"""States of a stage whose artifact is in the store."""
LEFT = ("planned", "running")
"""States of a stage that has to be computed."""


@dataclass(slots=True, eq=False)
class Node:
    """A stage that was asked for."""

    stage: Stage
    execution: Execution
    """How it runs, as the first who asked for it wants it."""
    number: int
    """Counts the nodes of a board from 0."""
    cost: float
    """Its estimated cost, asked for once."""
    inputs: tuple[str, ...]
    """Keys of the stages it reads."""
    state: State = "cancelled"
    dependents: dict[str, None] = field(default_factory=dict)
    """Keys of the nodes that were planned to read it, in order."""
    waiters: set[int] = field(default_factory=set)
    """Requests that await it."""
    missing: int = 0
    """Inputs that are not there, while it is planned."""
    path_cost: float = 0.0
    """Cost of the most expensive chain of stages from here on."""
    attempts: int = 0
    """How often it was started."""
    not_before: float = 0.0
    """Unix time in seconds before which it is not ready."""
    cause: str = ""
    """Why it was put back into the queue last."""
    waits_for: str = ""
    """What it waits for while it runs, in words."""
    failure: StageFailed | None = None
    """Why it failed, or why an input did."""
    started: float = 0.0
    progress: tuple[int, int, Mapping[str, float]] = (0, 0, {})

    @property
    def is_there(self) -> bool:
        """Whether its artifact is in the store."""
        return self.state in THERE


@dataclass(slots=True)
class Request:
    """What one caller awaits."""

    roots: tuple[str, ...]
    nodes: dict[str, None] = field(default_factory=dict)
    """The roots and all they need, where the store does not have it, inputs first."""
    left: set[str] = field(default_factory=set)
    """Roots that are not there."""
    failure: StageFailed | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it failed or has everything."""
        return self.failure is not None or not self.left
