"""Running one stage: the only place that calls `Stage.run`.

`Attempt` is everything around that call: input artifacts brought to local folders, a scratch
folder, progress and curve, the commit. `run_stage` runs a stage of the `train` and `light` lanes,
`run_serve_stage` awaits one of the `serve` lane; both turn an error into an `Outcome`, because the
process that ran the stage goes on to the next.

A stage that takes longer than it may is stopped at its next progress message: it was too slow, and
would be again. One that sends none either is stuck: its process ends itself, and the stage is tried
again.
"""

import asyncio
import inspect
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from serving.errors import BudgetSpent
from sweeps.checkpoints import StageCheckpoints
from sweeps.events import CurvePoint, StageRecord
from sweeps.failures import may_go_away
from sweeps.records import thinned
from sweeps.store import ArtifactStore
from w2s.errors import DamagedArtifact, UnusableCheckpoint, W2SError
from w2s.redaction import redacted
from w2s.stages.base import Stage, StageContext
from w2s.types import Acceleration

if TYPE_CHECKING:
    from serving.client import CompletionClient
    from w2s.training.parallel import Replicas

log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.3
"""Shortest time between two progress messages of a stage."""

STUCK_GRACE_S = 60.0
"""Time after `stage_timeout_s` in which a stage must send progress, or it counts as stuck."""

Report = Callable[[int, int, dict[str, float]], bool]
"""Sends (step, total, metrics) somewhere; False: nobody wants the stage any more."""


class StageCancelled(W2SError):
    """Nobody awaits the running stage any more; raised inside it by `progress`."""


class StageTimeout(W2SError):
    """The stage took longer than `runtime.stage_timeout_s`; raised inside it by `progress`."""


class Outcome(NamedTuple):
    """What came of an attempt at a stage."""

    key: str
    """Key of the stage."""
    record: StageRecord | None = None
    """Set when the artifact is in the store."""
    cause: str = ""
    """Type and message of the error, one line."""
    traceback: str = ""
    """Where the error happened."""
    cancelled: bool = False
    """The stage stopped because nobody awaited it."""
    retry: bool = False
    """The error may go away by itself: another attempt may succeed."""
    damaged: str = ""
    """Key of an input whose artifact turned out damaged; empty: none."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Where and how a process runs its stages: the runtime half of `StageContext`."""

    replicas: "Replicas | None" = None
    """Data-parallel group of the process (`train` lane)."""
    device: str = "cpu"
    """Torch device of the process."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast precision."""
    micro_batch_size: int | None = None
    """Examples a forward pass at most; None: the whole update."""
    acceleration: Acceleration = field(default_factory=Acceleration)
    """How training computes its passes."""
    clients: "Mapping[str, CompletionClient]" = field(default_factory=dict)
    """Clients of served models by model key (`serve` lane)."""
    warm: dict[str, Any] = field(default_factory=dict)
    """Objects kept between stages."""
    micro_batches: dict[str, int] = field(default_factory=dict)
    """Micro-batch sizes that this process found to fit, by base model, where that was less."""
    checkpoint_s: float | None = None
    """Seconds between two checkpoints of a training; None: none are written or read."""
    timeout_s: float | None = None
    """Seconds a stage may take; None: as long as it likes."""

    @property
    def commits(self) -> bool:
        """Whether this process writes the artifact: it is alone or rank 0."""
        return self.replicas is None or self.replicas.rank == 0


class _Progress:
    """Collects the curve of a stage and passes a few points a second on."""

    def __init__(self, report: Report, timeout_s: float | None) -> None:
        self.curve: list[CurvePoint] = []
        self._report = report
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._last_report = 0.0
        self._at = (0, 0)

    def __call__(self, step: int, total: int, metrics: dict[str, float]) -> None:
        now = time.time()
        self._at = (step, total)
        if metrics:
            self.curve.append(CurvePoint(step, total, dict(metrics), now))
        if now - self._last_report >= REPORT_INTERVAL_S:
            self._last_report = now
            if not self._report(step, total, metrics):
                raise StageCancelled("nobody awaits this stage any more")
        if self._timeout_s is not None and time.monotonic() - self._started > self._timeout_s:
            raise timed_out(self._timeout_s)

    def note(self, metrics: dict[str, float]) -> None:
        """Add numbers about the run itself to the curve, at the step it is at."""
        self.curve.append(CurvePoint(*self._at, metrics, time.time()))

    def points(self) -> list[list[Any]]:
        """The curve so far as JSON values."""
        return [[point.step, point.total, point.metrics, point.time] for point in self.curve]

    def restore(self, points: list[list[Any]]) -> None:
        """Go on after the curve of an earlier attempt."""
        self.curve[:] = [CurvePoint(*values) for values in points]


def timed_out(timeout_s: float) -> StageTimeout:
    """The error of a stage that took longer than it may."""
    return StageTimeout(
        f"not done after {timeout_s:g} s: raise `runtime.stage_timeout_s`, or make the stage "
        "smaller; a training goes on from its last checkpoint when the sweep is run again"
    )


@contextmanager
def _watched(stage: Stage, timeout_s: float | None) -> Iterator[None]:
    """End this process if the block goes on long after its time, as one that hangs does."""
    if timeout_s is None:
        yield
        return

    def end() -> None:
        log.error("stage=%s key=%s is stuck; its process ends", stage.name, stage.key)
        logging.shutdown()
        os._exit(1)

    watchdog = threading.Timer(timeout_s + STUCK_GRACE_S, end)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


class Attempt:
    """One attempt at a stage: `context` to run it with, `record` once the block is left well."""

    def __init__(self, stage: Stage, context: StageContext) -> None:
        self.stage = stage
        self.context = context
        self.record: StageRecord | None = None


@contextmanager
def attempt(
    stage: Stage, store: ArtifactStore, conditions: Conditions, report: Report
) -> Iterator[Attempt]:
    """The surroundings of `stage.run`: inputs before, commit after.

    Raises:
        StoreError: an input artifact is missing or damaged, or the store cannot be written.
    """
    inputs = {source.key: store.local(source) for source in stage.inputs}
    progress = _Progress(report, conditions.timeout_s)
    checkpoints = None
    if conditions.checkpoint_s is not None:
        checkpoints = StageCheckpoints(
            stage,
            store,
            conditions.checkpoint_s,
            writes=conditions.commits,
            extra=progress.points,
            on_load=progress.restore,
        )
    base = stage.base_model or ""

    def shrink(micro_batch_size: int) -> None:
        log.warning(
            "stage=%s key=%s out of memory: it goes on with micro-batches of %d",
            stage.name,
            stage.key,
            micro_batch_size,
        )
        conditions.micro_batches[base] = micro_batch_size
        progress.note({"micro_batch_size": float(micro_batch_size)})

    with store.workspace(stage, resume=stage.lane == "serve") as folder:
        context = StageContext(
            output_dir=folder,
            inputs=inputs,
            replicas=conditions.replicas,
            device=conditions.device,
            precision=conditions.precision,
            micro_batch_size=conditions.micro_batches.get(base, conditions.micro_batch_size),
            acceleration=conditions.acceleration,
            clients=conditions.clients,
            progress=progress,
            warm=conditions.warm,
            checkpoints=checkpoints,
            shrink=shrink,
        )
        current = Attempt(stage, context)
        started = time.time()
        try:
            yield current
        except UnusableCheckpoint:
            if checkpoints is not None:
                checkpoints.drop()
            raise
        finally:
            if checkpoints is not None:
                checkpoints.close()
        record = StageRecord(
            key=stage.key,
            name=stage.name,
            kind=stage.kind,
            identity=stage.identity(),
            started=started,
            finished=time.time(),
            host=socket.gethostname(),
            location=store.location(stage),
            curve=tuple(progress.curve),
        )
        if conditions.commits:
            store.commit(stage, folder, record)
            if checkpoints is not None:
                checkpoints.drop()
        current.record = replace(record, curve=thinned(progress.curve))


def ignore_progress(step: int, total: int, metrics: dict[str, float]) -> bool:
    """A `Report` for stages that nobody watches."""
    return True


def forward_progress(broker: Any, key: str) -> Report:
    """A `Report` to the handle of the stage broker that does not listen for an answer."""

    def report(step: int, total: int, metrics: dict[str, float]) -> bool:
        broker.report.remote(key, step, total, metrics)
        return True

    return report


def run_stage(
    stage: Stage,
    store: ArtifactStore,
    conditions: Conditions | None = None,
    report: Report = ignore_progress,
) -> Outcome:
    """Run a stage of the `train` or `light` lane and commit its artifact.

    In a group of replicas every one of them calls this; rank 0 commits. Nothing runs when the
    artifact is already there; replicas do not look, because one could see what another did not see
    yet.
    """
    conditions = conditions or Conditions()
    alone = conditions.replicas is None or conditions.replicas.size == 1
    try:
        if alone and (done := _already_there(stage, store)):
            return done
        with (
            _watched(stage, conditions.timeout_s),
            attempt(stage, store, conditions, report) as current,
        ):
            stage.run(current.context)
    except Exception as error:
        return failed(stage, error)
    return _success(current)


async def run_serve_stage(
    stage: Stage, store: ArtifactStore, conditions: Conditions, report: Report = ignore_progress
) -> Outcome:
    """Run a stage of the `serve` lane, whose `run` is a coroutine function; see `run_stage`."""
    limit: asyncio.Timeout | None = None
    try:
        if done := _already_there(stage, store):
            return done
        with attempt(stage, store, conditions, report) as current:
            result: Any = stage.run(current.context)
            assert inspect.isawaitable(result), f"{stage.kind}.run must be a coroutine function"
            async with asyncio.timeout(conditions.timeout_s) as limit:
                await result
    except TimeoutError as error:
        if limit is None or not limit.expired():
            return failed(stage, error)
        assert conditions.timeout_s is not None
        return failed(stage, timed_out(conditions.timeout_s))
    except Exception as error:
        return failed(stage, error)
    return _success(current)


def _already_there(stage: Stage, store: ArtifactStore) -> Outcome | None:
    """Another sweep may have been faster, or a worker may have died after its commit."""
    if not store.has(stage):
        return None
    log.info("stage=%s key=%s cached", stage.name, stage.key)
    return Outcome(stage.key, record=store.record(stage))


def _success(current: Attempt) -> Outcome:
    record = current.record
    assert record is not None
    log.info("stage=%s key=%s done in %.1f s", record.name, record.key, record.wall_s)
    return Outcome(record.key, record=record)


def failed(stage: Stage, error: Exception) -> Outcome:
    """The outcome of an attempt that raised; logs it."""
    cause = redacted(f"{type(error).__name__}: {error}".replace("\n", " "))
    where = redacted("".join(traceback.format_exception(error)))
    cancelled = isinstance(error, StageCancelled)
    expected = cancelled or isinstance(error, BudgetSpent)
    log.log(
        logging.INFO if cancelled else logging.ERROR,
        "stage=%s key=%s %s%s",
        stage.name,
        stage.key,
        "cancelled" if cancelled else f"failed: {cause}",
        "" if expected else f"\n{where}",
    )
    return Outcome(
        stage.key,
        cause=cause,
        traceback=where,
        cancelled=cancelled,
        retry=may_go_away(error),
        damaged=error.key if isinstance(error, DamagedArtifact) else "",
    )
