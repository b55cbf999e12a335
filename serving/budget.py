"""What a model behind a URL may be asked: limits a minute, and a budget that is kept on disk.

A `Meter` stands before the requests of all clients of one model. `request` waits until a request
fits into the last 60 seconds and raises `BudgetSpent` when it does not fit into the budget any
more; `charge` books what an answer cost. The `Ledger` is a SQLite file, so a budget holds over
restarts and over processes that share the file.

How many tokens a request will take is not known before its answer, so one in flight counts with an
estimate from above, and a request that finds no room waits until those in flight have been booked.
A budget is thus overdrawn by no more than an estimate was too low.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from serving.errors import BudgetSpent
from serving.messages import ServingSpec

WINDOW_S = 60.0
"""Limits a minute hold in any 60 seconds."""
LOCK_TIMEOUT_S = 60.0
"""Longest wait for another process that writes to the same file."""
CHARACTERS_PER_TOKEN = 3
"""Of prompts, for estimates; English has about 4."""


class Limits(ServingSpec, frozen=True):
    """What may be asked of one model; None: no limit."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests in any 60 seconds."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens in and out in any 60 seconds."""
    max_requests: int | None = Field(default=None, ge=1)
    """Requests in all."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens in and out in all."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What answers cost."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """In and out."""
        return self.input_tokens + self.output_tokens


class Ledger:
    """What was spent, by account; safe between processes."""

    def __init__(self, path: Path | None = None) -> None:
        """Args: path: SQLite file, made if missing; None: in memory, forgotten at the end."""
        self._db = connect(path)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS spent (account TEXT PRIMARY KEY, requests INTEGER,"
            " input_tokens INTEGER, output_tokens INTEGER)"
        )

    def spent(self, account: str) -> Usage:
        """All that was booked to an account."""
        row = self._db.execute(
            "SELECT requests, input_tokens, output_tokens FROM spent WHERE account = ?", (account,)
        ).fetchone()
        return Usage(*row) if row else Usage()

    def book(self, account: str, usage: Usage) -> None:
        """Add to an account; on disk when it returns."""
        self._db.execute(
            "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (account) DO UPDATE SET"
            " requests = requests + excluded.requests,"
            " input_tokens = input_tokens + excluded.input_tokens,"
            " output_tokens = output_tokens + excluded.output_tokens",
            (account, usage.requests, usage.input_tokens, usage.output_tokens),
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def connect(path: Path | None) -> sqlite3.Connection:
    """A database in which every statement is a transaction; its folder is made.

    The default journal is kept: unlike the write-ahead log it works on network file systems.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    return sqlite3.connect(path or ":memory:", timeout=LOCK_TIMEOUT_S, isolation_level=None)


@dataclass(slots=True)
class _Counted:
    """Tokens that count against the limit a minute."""

    time: float
    tokens: int


class Meter:
    """Limits of one model, for all its clients in this process; belongs to one event loop."""

    def __init__(
        self,
        limits: Limits,
        account: str,
        ledger: Ledger,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Args: account: name in the ledger and in messages. clock: seconds. sleep: waits."""
        self._limits = limits
        self._account = account
        self._ledger = ledger
        self._clock, self._sleep = clock, sleep
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()
        self._in_flight: list[_Counted] = []
        self._requests: deque[float] = deque()
        self._tokens: deque[_Counted] = deque()
        self._closed = ""

    @property
    def spent(self) -> Usage:
        """What is booked, by this process and others."""
        return self._ledger.spent(self._account)

    @asynccontextmanager
    async def request(self, tokens: int) -> AsyncIterator[None]:
        """One attempt at a request inside the block, which may begin.

        A request without an answer in time may have cost something, and is booked as estimated; one
        that the server refuses costs nothing.

        Args:
            tokens: estimate of its tokens in and out, from above.

        Raises:
            BudgetSpent: it does not fit into what is left of the budget.
        """
        async with self._turn:
            await self._room(tokens)
            counted = _Counted(self._clock(), tokens)
            self._in_flight.append(counted)
            self._requests.append(counted.time)
            self._tokens.append(counted)
        try:
            yield
        except (TimeoutError, asyncio.CancelledError):
            self.charge(Usage(requests=1, input_tokens=tokens))
            raise
        finally:
            self._in_flight.remove(counted)
            counted.tokens = 0
            self._settled.set()

    def charge(self, usage: Usage) -> None:
        """Book what an answer cost."""
        self._tokens.append(_Counted(self._clock(), usage.tokens))
        self._ledger.book(self._account, usage)

    async def _room(self, tokens: int) -> None:
        """Wait until a request fits into the budget and into the last minute."""
        while True:
            if self._closed:
                raise BudgetSpent(self._closed)
            if not self._is_affordable(tokens):
                if not self._in_flight:
                    # Nothing in flight is lost: what waits behind this request ends here too.
                    self._closed = self._refusal(tokens)
                    continue
                await self._until_settled()
            elif (wait_s := self._wait_s(tokens)) > 0:
                await self._until_settled(wait_s)
            else:
                return

    async def _until_settled(self, wait_s: float | None = None) -> None:
        """Wait for the end of a request in flight, which makes room, or for some time."""
        self._settled.clear()
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._settled.wait())]
        if wait_s is not None:
            waits.append(asyncio.ensure_future(self._sleep(wait_s)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _is_affordable(self, tokens: int) -> bool:
        limits, spent = self._limits, self.spent
        reserved = sum(counted.tokens for counted in self._in_flight)
        requests_left = limits.max_requests is None or (
            spent.requests + len(self._in_flight) < limits.max_requests
        )
        tokens_left = limits.max_tokens is None or (
            spent.tokens + reserved + tokens <= limits.max_tokens
        )
        return requests_left and tokens_left

    def _wait_s(self, tokens: int) -> float:
        """Time until something leaves the last minute that leaves too little room; 0: there is."""
        start = self._clock() - WINDOW_S
        while self._requests and self._requests[0] <= start:
            self._requests.popleft()
        while self._tokens and self._tokens[0].time <= start:
            self._tokens.popleft()
        limits, waits = self._limits, [0.0]
        if limits.requests_per_minute and len(self._requests) >= limits.requests_per_minute:
            waits.append(self._requests[0] - start)
        used = sum(counted.tokens for counted in self._tokens)
        # A request above the limit goes alone, when a minute is empty.
        if limits.tokens_per_minute and used and used + tokens > limits.tokens_per_minute:
            waits.append(self._tokens[0].time - start)
        return max(waits)

    def _refusal(self, tokens: int) -> str:
        limits, spent = self._limits, self.spent
        shown = [
            f"{found:,} of {limit:,} {what}"
            for found, limit, what in (
                (spent.requests, limits.max_requests, "requests"),
                (spent.tokens, limits.max_tokens, "tokens"),
            )
            if limit is not None
        ]
        return (
            f"the budget of {self._account} is spent: {', '.join(shown)}, and the next request may "
            f"take {tokens:,} tokens; raise max_requests or max_tokens and run again: what was "
            "answered is kept"
        )


def estimated_tokens(text: str) -> int:
    """Tokens of a text, from above for most texts."""
    return len(text) // CHARACTERS_PER_TOKEN + 1
