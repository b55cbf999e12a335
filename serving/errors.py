"""Every error the serving layer raises on purpose.

    ServingError
    ├── ServingInputError      the caller's input cannot be served; also a ValueError
    ├── DeploymentFailed       a model's replicas did not come up
    └── CompletionFailed       a request failed for good, after its retries
        ├── BudgetSpent        the budget of a model has no room for it
        └── TransientFailure   a request failed in a way that another attempt may mend

All of them pickle, because they cross Ray processes.
"""


class ServingError(Exception):
    """Root of the serving layer's own errors."""


class ServingInputError(ServingError, ValueError):
    """What the caller asked for cannot be served; the message says what, found, allowed, do."""


class DeploymentFailed(ServingError):
    """The replicas of a model did not come up."""


class CompletionFailed(ServingError):
    """A request for completions failed for good."""


class BudgetSpent(CompletionFailed):
    """What a model may cost is spent; no request of this client was in flight any more."""


class TransientFailure(CompletionFailed):
    """A request failed in a way that another attempt may mend (overload, lost replica, timeout)."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s
        """Seconds the server asked to wait before the next attempt, if it did."""

    def __str__(self) -> str:
        return str(self.args[0])
