"""Every error the project raises on purpose.

    W2SError
    ├── UserError            the user's input cannot be run; says what, found, allowed, do
    ├── CriterionMissed      a pretraining phase hit its step cap before its criterion held
    ├── UnusableCheckpoint   the checkpoint of a stage does not fit its training
    ├── StageFailed          a stage failed; has key and cause, reaches every waiter
    └── StoreError           the artifact store cannot be read or written
        └── DamagedArtifact  an artifact is not what was stored; has key and kind

All of them pickle, because they cross Ray processes. The command line turns `UserError` and
`StoreError` into one message and exit code 2.
"""


class W2SError(Exception):
    """Root of the project's own errors."""


class UserError(W2SError, ValueError):
    """The user's input cannot be run."""


class CriterionMissed(W2SError):
    """A pretraining phase reached its step cap before its criterion held."""


class UnusableCheckpoint(W2SError):
    """The checkpoint that an earlier attempt left does not fit the training; it is dropped."""


class StageFailed(W2SError):
    """A stage failed; every trial that waits for it receives this error."""

    def __init__(self, key: str, name: str, cause: str) -> None:
        super().__init__(key, name, cause)
        self.key = key
        """Key of the stage that failed (16 hex digits)."""
        self.name = name
        """Readable name of the stage, as in logs and the store."""
        self.cause = cause
        """One line: type and message of the original error."""

    def __str__(self) -> str:
        return f"stage {self.name} ({self.key}) failed: {self.cause}"


class StoreError(W2SError):
    """The artifact store cannot be read or written."""


class DamagedArtifact(StoreError):
    """An artifact is missing, or is not what was stored; it is never read."""

    def __init__(self, key: str, kind: str, name: str, problem: str, location: str) -> None:
        super().__init__(key, kind, name, problem, location)
        self.key = key
        """Key of its stage (16 hex digits)."""
        self.kind = kind
        """Kind of its stage."""
        self.name = name
        """Readable name of its stage."""
        self.problem = problem
        """What is wrong with it."""
        self.location = location
        """Its folder or URL."""

    def __str__(self) -> str:
        return (
            f"the artifact of stage {self.name} ({self.key}) is damaged: {self.problem} in "
            f"{self.location}; `w2s run` makes it again, `w2s store verify` checks the others"
        )
