"""What a run leaves in the store about how it stands: `w2s status` reads it from any machine.

`Progress` is the broker's snapshot, the trials and the failures at one moment; `ProgressFile` is
where it lies, `.progress/NAME.json` in the store. The driver writes it every few seconds while it
runs and once at its end: a file that says that the sweep runs, and is old, tells of a driver that
was killed.
"""

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from sweeps.events import BrokerSnapshot, StageEvent
from sweeps.store import ArtifactStore

log = logging.getLogger(__name__)

FOLDER = ".progress"
LOCAL_INTERVAL_S = 2.0
"""Seconds between two writings to a folder."""
REMOTE_INTERVAL_S = 15.0
"""Seconds between two writings to a store behind a URL."""
SILENT_S = 60.0
"""Age in seconds at which a run that says it goes on counts as gone."""

TrialStatus = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One trial as it stands."""

    name: str
    """Short name, such as `xs>xl naive xent`."""
    status: TrialStatus
    """How it stands."""
    seeds_done: int
    """Finished seeds."""
    num_seeds: int
    """Seeds asked for."""
    objective: float | None = None
    """Mean over finished seeds of the score on `val`."""
    floor: float | None = None
    """Test accuracy of the weak model alone."""
    supervisor: float | None = None
    """Test accuracy of the supervisor as the method assists it."""
    student: float | None = None
    """Test accuracy of the student."""
    ceiling: float | None = None
    """Test accuracy of the ceiling."""
    cause: str = ""
    """Why it failed."""


@dataclass(frozen=True, slots=True)
class FailedStage:
    """A stage that failed in this run."""

    key: str
    """Key of the stage."""
    name: str
    """Readable name of the stage."""
    cause: str
    """Type and message of the error, one line."""
    time: float
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A run as it stands."""

    sweep: str
    """Name of the sweep."""
    host: str
    """Machine of the driver."""
    process: int
    """Process id of the driver."""
    started: float
    """Unix time in seconds at which it began."""
    written: float
    """Unix time in seconds of this state."""
    has_ended: bool
    """Whether the run is over."""
    snapshot: BrokerSnapshot
    """Its stages."""
    trials: tuple[TrialLine, ...] = ()
    """Its trials, oldest first."""
    failures: tuple[FailedStage, ...] = ()
    """Stages that failed and did not get done since."""

    def goes_on(self, now: float) -> bool:
        """Whether the run is not over, and was heard of a short while ago."""
        return not self.has_ended and now - self.written <= SILENT_S


_ADAPTER = TypeAdapter(Progress)


class ProgressFile:
    """The progress of one sweep in a store."""

    def __init__(self, store: ArtifactStore, sweep: str) -> None:
        """Args: store: where it lies. sweep: its name."""
        self._files = store.files
        self._path = f"{FOLDER}/{sweep}.json"
        self._interval_s = LOCAL_INTERVAL_S if store.is_local else REMOTE_INTERVAL_S
        self._sweep = sweep
        self._started = time.time()
        self._due = 0.0
        self._complained = False
        self._failures: dict[str, FailedStage] = {}

    def note(self, event: StageEvent) -> None:
        """Tell of a stage that ended; failures are kept until the stage is done after all."""
        self._failures.pop(event.key, None)
        if event.state == "failed":
            self._failures[event.key] = FailedStage(event.key, event.name, event.cause, event.time)

    def read(self) -> Progress | None:
        """What the last run wrote; None: nothing, or nothing that can be read."""
        try:
            return _ADAPTER.validate_json(self._files.read(self._path))
        except (FileNotFoundError, ValidationError):
            return None

    def is_due(self) -> bool:
        """Whether the last writing is long enough ago."""
        return time.monotonic() >= self._due

    def write(
        self,
        snapshot: BrokerSnapshot,
        trials: Sequence[TrialLine],
        has_ended: bool = False,
    ) -> None:
        """Leave the state of this process's run; a store that cannot be written is told of once."""
        self._due = time.monotonic() + self._interval_s
        progress = Progress(
            sweep=self._sweep,
            host=socket.gethostname(),
            process=os.getpid(),
            started=self._started,
            written=time.time(),
            has_ended=has_ended,
            snapshot=snapshot,
            trials=tuple(trials),
            failures=tuple(self._failures.values()),
        )
        try:
            self._files.write(self._path, _ADAPTER.dump_json(progress, indent=1))
        except OSError as error:
            if not self._complained:
                log.warning("cannot write how the sweep stands, for `w2s status`: %s", error)
                self._complained = True
