"""What the broker tells others about its stages; plain values that pickle and need no Ray.

`StageRecord` says how a stage was computed: times, host, curve. `StageEvent` is one entry of the
broker's log, written when a stage reaches an end (`StageBroker.events`).
`BrokerSnapshot` is the state of everything at one moment (`StageBroker.snapshot`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from w2s.stages.base import Lane

State = Literal["planned", "cached", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("planned", "cached", "running", "done", "failed", "cancelled")
EndState = Literal["cached", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One call of a stage's `progress`."""

    step: int
    """Steps done, counted from the start of the stage."""
    total: int
    """Steps expected in all; 0 where unknown."""
    metrics: Mapping[str, float]
    """Numbers of this step, such as `loss`."""
    time: float
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """How an artifact came to be."""

    key: str
    """Key of the stage (16 hex digits)."""
    name: str
    """Readable name of the stage."""
    kind: str
    """Kind of the stage."""
    identity: Mapping[str, object]
    """Canonical form of the spec (JSON values); each input stage is replaced by `{"key": ...}`."""
    started: float
    """Unix time in seconds at which the stage began to run."""
    finished: float
    """Unix time in seconds at which its files were complete."""
    host: str
    """Machine that ran it."""
    location: str = ""
    """Where the artifact is: a folder or URL in the store."""
    curve: tuple[CurvePoint, ...] = ()
    """Every metric the stage reported, in order."""

    @property
    def wall_s(self) -> float:
        """Seconds the stage took."""
        return self.finished - self.started


@dataclass(frozen=True, slots=True)
class StageEvent:
    """A stage reached an end."""

    index: int
    """Counts the events of a broker from 0; `events(index + 1)` gives what came later."""
    state: EndState
    """`done`: it ran now. `cached`: the store had it. `failed`: it raised an error. `cancelled`:
    one of its inputs failed, or nobody awaits it any more."""
    key: str
    """Key of the stage."""
    name: str
    """Readable name of the stage."""
    kind: str
    """Kind of the stage."""
    time: float
    """Unix time in seconds of the event."""
    record: StageRecord | None = None
    """`done`: times and curve of the run."""
    cause: str = ""
    """`failed`: type and message of the error, one line; `cancelled`: why."""
    traceback: str = ""
    """`failed`: where it happened, for logs."""

    def without_curve(self) -> "StageEvent":
        """The same, small enough to be kept for every stage of a sweep."""
        if self.record is None or not self.record.curve:
            return self
        return replace(self, record=replace(self.record, curve=()))


@dataclass(frozen=True, slots=True)
class RunningStage:
    """A stage that runs now."""

    key: str
    """Key of the stage."""
    name: str
    """Readable name of the stage."""
    kind: str
    """Kind of the stage."""
    lane: Lane
    """Where it runs."""
    started: float
    """Unix time in seconds."""
    step: int = 0
    """Steps done."""
    total: int = 0
    """Steps expected in all; 0 where unknown."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Last metrics it reported."""
    cost: float = 0.0
    """Its estimated cost (`Stage.cost`)."""
    path_cost: float = 0.0
    """Cost of the most expensive chain of stages from this one on."""
    waits_for: str = ""
    """What it waits for, in words, where that is not its own work: a model that starts."""


WaitReason = Literal["inputs", "turn", "time"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Stages of one kind that have to run and do not, for the same reason."""

    kind: str
    """Their kind."""
    number: int
    """How many they are."""
    name: str
    """Readable name of one of them."""
    reason: WaitReason
    """`inputs`: stages they read are not made yet. `turn`: they could run, and what runs them is
    busy or starts. `time`: a time has been set for the next attempt."""
    what: str
    """What they wait for, in words."""
    until: float = 0.0
    """Unix time in seconds of the next attempt; 0 where none is set."""

    @property
    def words(self) -> str:
        """Such as `3 finetune wait for pretrain-l`."""
        who = self.name if self.number == 1 else f"{self.number} {self.kind}"
        return f"{who} {'waits' if self.number == 1 else 'wait'} for {self.what}"


@dataclass(frozen=True, slots=True)
class Work:
    """What the stages of one kind have cost so far, and will."""

    lane: Lane
    """Where they run."""
    cost_done: float = 0.0
    """Estimated cost of those that ran to their end."""
    seconds_done: float = 0.0
    """Seconds these took."""
    cost_left: float = 0.0
    """Estimated cost of those that are planned or run, without regard to their progress."""
    number_done: int = 0
    """Stages that ran to their end."""
    number_left: int = 0
    """Stages that are planned or run."""


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """The state of every stage that was asked for, at one moment."""

    time: float
    """Unix time in seconds."""
    counts: Mapping[str, Mapping[State, int]]
    """Stages by kind and state; `planned` are those asked for that neither run nor ended."""
    running: tuple[RunningStage, ...] = ()
    """The stages that run now, oldest first."""
    gangs: int = 0
    """Worker groups that are up or starting."""
    served: tuple[str, ...] = ()
    """Names of the models that are up or starting."""
    waiting: tuple[Waiting, ...] = ()
    """What is planned and does not run, and why."""
    work: Mapping[str, Work] = field(default_factory=dict)
    """Cost and time by kind."""
    path_cost: float = 0.0
    """Cost of the most expensive chain of stages that begins with one that is ready."""
    num_events: int = 0
    """Events so far; the next one has this index."""

    def total(self, state: State) -> int:
        """Stages in a state, over all kinds."""
        return sum(by_state.get(state, 0) for by_state in self.counts.values())
