"""How drivers and trials talk to the stage broker; loads Ray and nothing of the science.

The broker of a store is a named actor (`broker_name`) that all drivers of a cluster share. A
`DriverClient` opens it for one run of `w2s`: it says how that run's stages are executed, and which
there are. A `BrokerClient` is one caller of that run: a trial, or the driver itself.

A broker that dies is started again by Ray and knows nothing of what was before. Nobody has to care:
a call that meets a dead broker, or one that has forgotten, is made again once the driver has
opened the new one, and what was asked for is asked for again.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from sweeps.events import BrokerSnapshot, StageEvent, StageRecord
from w2s.errors import StageFailed, UserError, W2SError
from w2s.stages.base import Stage

log = logging.getLogger(__name__)

NAMESPACE = "w2s"
"""Ray namespace of the brokers."""
PATIENCE_S = 180.0
"""Longest time that a call waits for a broker to come back."""
RETRY_S = 0.2
"""Time between two attempts."""


class Forgotten(W2SError):
    """The broker does not know this driver, stage or request: it was started again, or is ending.

    The caller asks again.
    """


class BrokerLost(W2SError):
    """The broker has been away for too long."""


class BrokerClient:
    """A caller's end of the broker: the driver's, or a trial's.

    Requests live as long as their caller shows signs of life: each call is one, for all of them.
    """

    def __init__(self, name: str, driver: str) -> None:
        """Find the broker when it is first needed.

        Args:
            name: of the broker.
            driver: id of the run that this caller belongs to (`DriverClient.driver`).
        """
        self.name = name
        self.driver = driver
        self._caller = f"{ray.get_runtime_context().get_worker_id()}-{id(self)}"
        self._asked: dict[str, list[Stage | str]] = {}
        self._handle: Any = None

    def ask(self, stages: Sequence[Stage | str]) -> str:
        """Ask for stages, or keys of registered ones; returns the id of the request at once.

        Raises:
            UserError: the cluster can never run one of them.
        """
        request = uuid.uuid4().hex
        self._asked[request] = list(stages)
        self._call("ask", self.driver, self._caller, request, self._asked[request])
        return request

    def wait(self, request: str) -> None:
        """Wait until everything that was asked for is in the store.

        Raises:
            StageFailed: a stage failed; the request is over.
        """
        try:
            while not self._call("wait", self._caller, request):
                pass
        finally:
            self.release(request)

    def request(self, stages: Sequence[Stage | str]) -> None:
        """Ask for stages and wait for them; see `wait`."""
        self.wait(self.ask(stages))

    def read_json(self, keys: Sequence[str], file: str) -> dict[str, Any]:
        """A JSON file of stages that were asked for and are done, by key."""
        return {key: self._call("read_json", self.driver, key, file) for key in keys}

    def release(self, request: str) -> None:
        """Give a request up; one that is over, or whose broker is gone, is given up already."""
        self._asked.pop(request, None)
        with contextlib.suppress(RayActorError, RayTaskError, ValueError, BrokerLost):
            self._find().release.remote(request)

    def snapshot(self) -> BrokerSnapshot:
        """The state of everything now."""
        return self._call("snapshot")

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the broker, again and again while it is away or does not know us.

        Raises:
            StageFailed: a stage of the request failed.
            UserError: the cluster can never run a stage.
            BrokerLost: it did not come back.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ray.get(getattr(self._find(), method).remote(*arguments))
            except RayTaskError as error:
                if isinstance(error.cause, StageFailed | UserError):
                    raise error.cause from None
                if not isinstance(error.cause, Forgotten):
                    raise
                problem: Exception = error.cause
            except (RayActorError, ValueError) as error:  # dead, or nobody has that name
                problem = error
            if time.monotonic() > deadline:
                raise BrokerLost(f"the stage broker did not come back: {problem}") from problem
            time.sleep(RETRY_S)
            with contextlib.suppress(RayActorError, RayTaskError, ValueError):
                self._come_back()

    def _find(self) -> Any:
        if self._handle is None:
            self._handle = ray.get_actor(self.name, namespace=NAMESPACE)
        return self._handle

    def _come_back(self) -> None:
        """Look the broker up again, and ask again for what is awaited."""
        self._handle = None
        self._ask_again(self._find())

    def _ask_again(self, handle: Any) -> None:
        for request, stages in list(self._asked.items()):
            ray.get(handle.ask.remote(self.driver, self._caller, request, stages))


class DriverClient(BrokerClient):
    """The driver's end: brings the broker up, and back."""

    def __init__(
        self,
        name: str,
        create: Callable[[], Any],
        settings: Any,
        record: Callable[[Stage], StageRecord | None],
    ) -> None:
        """Open the broker.

        Args:
            name: of the broker.
            create: gives the handle of the broker of that name, new or running.
            settings: how this driver's stages are executed (`Execution`).
            record: looks the record of an artifact up in the store; None: there is none.
        """
        super().__init__(name, uuid.uuid4().hex)
        self._create = create
        self._settings = settings
        self._record = record
        self._began = time.time()
        self._stages: dict[str, Stage] = {}
        self._ended: dict[str, str] = {}
        self._losses = 0
        self._incarnation = ""
        self._read = ""
        self._next_event = 0
        self._reopened = False
        self._gone = threading.Event()
        self._lock = threading.RLock()
        self._beat()
        self._heart = threading.Thread(target=self._keep_beating, name="w2s-heart", daemon=True)
        self._heart.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """See `leave`."""
        self.leave()

    def register(self, stages: Sequence[Stage]) -> None:
        """Make stages known, so that trials can ask for them by key."""
        with self._lock:
            self._stages.update((stage.key, stage) for stage in stages)
        self._call("register", self.driver, list(stages))

    def ask(self, stages: Sequence[Stage | str]) -> str:
        """See `BrokerClient.ask`."""
        with self._lock:
            self._stages.update((s.key, s) for s in stages if isinstance(s, Stage))
        return super().ask(stages)

    def events(self) -> list[StageEvent]:
        """What ended since the last call: each end of a stage is told once, over all restarts.

        A stage that ended while the broker died, and that the next one finds in the store, is told
        as `done`: it ran in this run.
        """
        log_id, found = self._call("events", self.driver, self._read, self._next_event)
        if log_id != self._read:
            self._read, self._next_event = log_id, 0
        if found:
            self._next_event = found[-1].index + 1
        told: list[StageEvent] = []
        for event in found:
            told_as = self._ended.get(event.key)
            if event.state == "cached" and self._reopened:
                if told_as in ("done", "cached"):
                    continue
                event = self._as_it_was(event)
            self._ended[event.key] = event.state
            told.append(event)
        return told

    def noticed(self) -> list[str]:
        """What was lost on the way and made good, in words; empty where the broker is away."""
        found: list[str] = []
        if self._losses:
            times = "once" if self._losses == 1 else f"{self._losses} times"
            found.append(f"the stage broker died {times}; the next one went on")
        with contextlib.suppress(RayActorError, RayTaskError, TimeoutError, BrokerLost):
            found += ray.get(self._find().noticed.remote(self.driver), timeout=5.0)
        return found

    def leave(self, timeout_s: float | None = None) -> None:
        """Release everything; the last driver takes the broker along, with all that it started.

        Args:
            timeout_s: seconds that gangs and served models have to go; None: as long as they need.
                Safe to call twice.
        """
        with self._lock, contextlib.suppress(Exception):  # gone already, or going by itself
            handle, self._handle = self._handle, None
            self._gone.set()
            self._asked.clear()
            if handle is not None and ray.get(handle.leave.remote(self.driver), timeout=timeout_s):
                ray.kill(handle)

    def _beat(self) -> None:
        self._call("beat", self.driver, self._caller)

    def _keep_beating(self) -> None:
        """Show signs of life, whatever the driver is doing, and open a broker that came back."""
        while not self._gone.wait(self._settings.lease_s / 4):
            try:
                self._beat()
            except Exception as error:  # the cluster is gone, or this run has left
                if not self._gone.is_set():
                    log.warning("no sign of life reached the stage broker: %s", error)

    def _as_it_was(self, event: StageEvent) -> StageEvent:
        stage = self._stages.get(event.key)
        record = self._record(stage) if stage is not None else None
        if record is None or record.finished < self._began:
            return event
        return replace(event, state="done", record=record)

    def _find(self) -> Any:
        with self._lock:
            if self._gone.is_set():
                raise BrokerLost("this run has left the stage broker")
            if self._handle is None:
                self._open(self._create())
            return self._handle

    def _come_back(self) -> None:
        with self._lock:
            self._handle = None
            self._find()

    def _open(self, handle: Any) -> None:
        incarnation = ray.get(handle.open.remote(self.driver, self._settings))
        self._reopened = bool(self._incarnation)
        if self._incarnation not in ("", incarnation):
            self._losses += 1
            log.warning("the stage broker died; the next one is told again what is missing")
        self._incarnation = incarnation
        ray.get(handle.register.remote(self.driver, list(self._stages.values())))
        self._ask_again(handle)
        self._handle = handle


def broker_name(root: str) -> str:
    """Name of the broker of a store: drivers with the same code on a cluster share it."""
    environment = dict(ray.get_runtime_context().runtime_env)
    names = ("working_dir", "py_modules", "pip")
    own = [f"{name}={environment[name]}" for name in names if environment.get(name)]
    code = _digest(chr(0).join([_code_digest(), *own]))
    return f"w2s-broker-{_digest(root + code)}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Digest of the sources of this package and those below it: stages travel pickled."""
    home = Path(__file__).parent.parent
    digest = sha256()
    for package in ("serving", "sweeps", "w2s"):
        for path in sorted((home / package).rglob("*.py")):
            digest.update(path.relative_to(home).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
