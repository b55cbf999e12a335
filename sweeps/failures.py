"""Which failures are worth another attempt, and what a lost process died of.

An error that the stage itself makes, from the same inputs, comes again: a wrong file, a NaN loss, a
bug. It is not retried. What has its cause outside may go away: a hub or a store that does not
answer, a served model that fell over, a full memory, a process that was killed. An error that is in
neither list counts as the stage's own.
"""

import errno
import re
from collections.abc import Iterator

from ray.exceptions import OutOfMemoryError as WorkerOutOfMemory
from ray.exceptions import RayActorError

from serving.errors import BudgetSpent, ServingError, ServingInputError
from w2s.errors import UnusableCheckpoint, W2SError

OWN = (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, BudgetSpent)
"""Errors that come again, whatever they were raised from; `UserError` is a `ValueError`."""
PASSING = (
    ConnectionError,
    TimeoutError,
    MemoryError,
    ServingError,
    RayActorError,
    UnusableCheckpoint,
)
"""Errors that may go away by themselves."""
PASSING_CODES = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EIO,
        errno.EINTR,
        errno.ENOMEM,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
    }
)
"""Codes of an `OSError` that may go away; a missing file or a full disk does not."""
PASSING_NAMES = re.compile(
    # of httpx, requests, aiohttp, botocore, torch and torch.distributed, by class name
    r"(Timeout|ConnectionError|ConnectTimeout|TransportError|NetworkError|ProtocolError|ReadError"
    r"|EndpointConnection|ClientConnector|ServerDisconnected|OutOfMemoryError|DistBackendError"
    r"|DistNetworkError|DistStoreError)"
)
"""Names of classes of libraries that need not be installed."""
PARTNER_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe", re.IGNORECASE
)
"""In the message of a `RuntimeError`: a collective whose partner went away."""
PAUSE_S = 2.0
"""Pause before the first further attempt; each is four times as long as the one before."""
LONGEST_PAUSE_S = 60.0


def may_go_away(error: BaseException) -> bool:
    """Whether another attempt at a stage that raised this may succeed.

    Of an error and what it was raised from, the first one that is in a list decides.
    """
    for each in causes(error):
        if _passes(each):
            return True
        if isinstance(each, OWN):
            return False
    return False


def pause_s(attempts: int) -> float:
    """Seconds before a stage that was started so many times is started again."""
    return min(LONGEST_PAUSE_S, PAUSE_S * 4.0 ** (attempts - 1))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def death_of(error: BaseException) -> str:
    """What the process of a stage died of, in words, from what Ray says about it."""
    if any(isinstance(each, WorkerOutOfMemory) for each in _inside(error)):
        return (
            "the machine ran out of memory and Ray ended its process: lower "
            "`runtime.train.micro_batch_size`, run fewer gangs (`runtime.train.max_gangs`) or use "
            "a machine with more memory"
        )
    return (
        "its process ended (a crash, a lost machine, or killed from outside, as the kernel does "
        "when memory runs out); the log of the worker says more"
    )


def is_preempted(error: BaseException) -> bool:
    """Whether the machine was taken back: that is no fault of the stage."""
    return any(isinstance(each, RayActorError) and each.preempted for each in _inside(error))


def _inside(error: BaseException) -> Iterator[BaseException]:
    """An error of Ray Train and the errors of workers that it carries."""
    todo: list[BaseException] = [error]
    while todo:
        current = todo.pop()
        yield current
        todo += getattr(current, "worker_failures", {}).values()
        for name in ("health_check_failure", "controller_failure", "cause"):
            inner = getattr(current, name, None)
            if isinstance(inner, BaseException):
                todo.append(inner)


def _passes(error: BaseException) -> bool:
    if isinstance(error, BudgetSpent | ServingInputError):
        return False
    if isinstance(error, PASSING):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in PASSING_CODES
    if isinstance(error, W2SError):
        return False
    if any(PASSING_NAMES.search(kind.__name__) for kind in type(error).__mro__):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status == 429 or status >= 500
    return type(error) is RuntimeError and bool(PARTNER_LOST.search(str(error)))
