"""Which errors are worth another attempt, and what a dead process is said to have died of."""

import errno

import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from serving.errors import BudgetSpent, DeploymentFailed, ServingInputError, TransientFailure
from sweeps.failures import death_of, is_preempted, may_go_away, pause_s
from w2s.errors import CriterionMissed, StoreError, UnusableCheckpoint, UserError


class ConnectTimeout(Exception):
    """Named like that of a library that need not be installed."""


class HTTPStatusError(Exception):
    """With a status, like those of HTTP libraries."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.response = type("Response", (), {"status_code": status})()


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("the hub went away"),
        TimeoutError("no answer"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        OSError(errno.ESTALE, "stale file handle"),
        OSError(errno.EIO, "input/output error"),
        TransientFailure("overloaded"),
        DeploymentFailed("replicas did not come up"),
        UnusableCheckpoint("of another training"),
        RuntimeError("[pair.cc:534] gloo: Connection closed by peer [127.0.0.1]:4711"),
        torch.distributed.DistBackendError("NCCL error"),
        ConnectTimeout("hub"),
        HTTPStatusError(503),
        HTTPStatusError(429),
        raised_from(StoreError("cannot read"), ConnectionError("bucket")),
        raised_from(OSError("cannot load the model"), TimeoutError("hub")),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:40],
)
def test_error_that_may_go_away(error: Exception) -> None:
    assert may_go_away(error)


@pytest.mark.parametrize(
    "error",
    [
        UserError("no such column"),
        FloatingPointError("the loss is nan"),
        ValueError("bad row"),
        KeyError("row 7"),
        ZeroDivisionError(),
        AssertionError(),
        RuntimeError("shape mismatch"),
        CriterionMissed("phase 'read' missed its criterion"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        PermissionError(errno.EACCES, "denied"),
        OSError(errno.ENOSPC, "no space left on device"),
        OSError("not a model: no file named config.json"),
        ServingInputError("no such adapter"),
        BudgetSpent("0 of 10 left"),
        HTTPStatusError(404),
        raised_from(UserError("no such model on the hub"), ConnectionError("refused")),
        raised_from(StoreError("cannot write"), OSError(errno.ENOSPC, "disk full")),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:40],
)
def test_error_that_comes_again(error: Exception) -> None:
    assert not may_go_away(error)


def test_outer_error_decides_over_what_happened_before() -> None:
    away = ConnectionError("refused")
    away.__context__ = KeyError("no connection in the pool")
    assert may_go_away(away)


def test_pauses_grow_up_to_a_minute() -> None:
    assert [pause_s(attempts) for attempts in (1, 2, 3, 4, 9)] == [2, 8, 32, 60, 60]


def test_dead_process_is_told_apart_from_one_that_took_all_memory() -> None:
    full = WorkerHealthCheckFailedError("gone", OutOfMemoryError("low on memory"))
    crash = WorkerHealthCheckFailedError("gone", ActorDiedError())
    assert "lower `runtime.train.micro_batch_size`" in death_of(WorkerGroupError("", {0: full}))
    assert "micro_batch" not in death_of(WorkerGroupError("", {0: crash}))
    assert "micro_batch" in death_of(WorkerGroupError("", {0: crash, 1: full}))
    assert "ran out of memory" in death_of(OutOfMemoryError("low on memory"))
    assert "its process ended" in death_of(ControllerError(ActorDiedError()))


def test_machine_that_was_taken_back_is_known() -> None:
    taken = ActorDiedError()
    taken._preempted = True
    assert is_preempted(WorkerGroupError("", {1: WorkerHealthCheckFailedError("gone", taken)}))
    assert not is_preempted(ActorDiedError())
