"""How completions are asked for: bounded, batched, retried, each prompt with its own seed.

`CompletionClient` is what callers hold. `BatchingClient` is its one implementation: it cuts the
prompts into requests, keeps a bounded number in flight, tries failed ones again, and hands results
over as they finish. A backend gives it a `Transport`, which sends one request and nothing else.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from pydantic import Field

from serving.errors import CompletionFailed, TransientFailure
from serving.messages import Completion, Sampling, ServingSpec

log = logging.getLogger(__name__)

OnCompletion = Callable[[int, Completion], None]


class RequestPolicy(ServingSpec, frozen=True):
    """Bounds of a client's traffic; never part of a result's identity."""

    prompts_per_request: int = Field(default=64, ge=1)
    """Prompts that travel in one request, where the transport can seed each of them."""
    max_requests_in_flight: int = Field(default=8, ge=1)
    """Requests that wait for an answer at the same time."""
    timeout_s: float = Field(default=600.0, gt=0.0)
    """Seconds after which one attempt counts as failed."""
    max_attempts: int = Field(default=5, ge=1)
    """Attempts at one request, the first included."""
    base_delay_s: float = Field(default=0.5, ge=0.0)
    """Wait before the second attempt, at most; it doubles from attempt to attempt."""
    max_delay_s: float = Field(default=30.0, ge=0.0)
    """Longest wait between two attempts, in seconds."""


class CompletionClient(Protocol):
    """Anything that completes prompts."""

    async def complete(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """Complete every prompt.

        Args:
            prompts: texts to go on from.
            sampling: how, the same for all.
            seeds: one per prompt; what a prompt gets does not depend on the prompts beside it.
            on_completion: called with a prompt's index and completion as soon as its request is
            done.

        Returns:
            One completion per prompt, in their order.

        Raises:
            CompletionFailed: a request failed for good; the other requests were cancelled.
        """
        ...

    def stream(self, prompt: str, sampling: Sampling, seed: int) -> AsyncIterator[str]:
        """Complete one prompt, piece by piece; the pieces add up to the text."""
        ...

    async def aclose(self) -> None:
        """Give connections back; the client is of no use after it."""
        ...


class Transport(Protocol):
    """Sends one request; knows nothing of bounds and retries."""

    seeds_per_request: bool
    """Whether one request can carry prompts with different seeds."""

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        """Complete the prompts of one request.

        Raises:
            TransientFailure: another attempt may work.
            CompletionFailed: it will not.
        """
        ...

    def stream(
        self, prompt: str, sampling: Sampling, seed: int, timeout_s: float
    ) -> AsyncIterator[str]:
        """Complete one prompt, piece by piece."""
        ...

    async def aclose(self) -> None:
        """Give connections back."""
        ...


async def run_all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at the same time; the first error cancels the others and is raised as it is."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class BatchingClient:
    """A `CompletionClient` over any transport; its bounds hold over all its calls.

    It belongs to the event loop it is first used in.
    """

    def __init__(self, transport: Transport, policy: RequestPolicy | None = None) -> None:
        self._transport = transport
        self._policy = policy or RequestPolicy()
        self._slots = asyncio.Semaphore(self._policy.max_requests_in_flight)
        # Jitter only spreads waiting times, so it needs no seed.
        self._jitter = random.Random()

    async def complete(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """Complete every prompt; see `CompletionClient.complete`."""
        assert len(prompts) == len(seeds), f"{len(prompts)} prompts but {len(seeds)} seeds"
        size = self._policy.prompts_per_request if self._transport.seeds_per_request else 1
        results: list[Completion | None] = [None] * len(prompts)

        async def request(start: int) -> None:
            part = slice(start, start + size)
            async with self._slots:
                completions = await self._attempt(prompts[part], sampling, seeds[part])
            for index, completion in enumerate(completions, start):
                results[index] = completion
                if on_completion is not None:
                    on_completion(index, completion)

        await run_all(request(start) for start in range(0, len(prompts), size))
        return [result for result in results if result is not None]

    async def stream(self, prompt: str, sampling: Sampling, seed: int) -> AsyncIterator[str]:
        """Complete one prompt, piece by piece; not retried, because pieces are already out."""
        async with self._slots:
            async for piece in self._transport.stream(
                prompt, sampling, seed, self._policy.timeout_s
            ):
                yield piece

    async def aclose(self) -> None:
        """Give connections back."""
        await self._transport.aclose()

    async def _attempt(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        policy = self._policy
        for attempt in range(1, policy.max_attempts + 1):
            try:
                completions = await asyncio.wait_for(
                    self._transport.send(prompts, sampling, seeds, policy.timeout_s),
                    policy.timeout_s,
                )
                if len(completions) != len(prompts):
                    raise CompletionFailed(
                        f"asked for {len(prompts)} completions, got {len(completions)}"
                    )
                return completions
            except (TransientFailure, TimeoutError) as error:
                cause = str(error) or f"no answer within {policy.timeout_s:g} s"
                if attempt == policy.max_attempts:
                    raise CompletionFailed(
                        f"{len(prompts)} prompts failed after {attempt} attempts: {cause}"
                    ) from error
                delay = self._delay_s(attempt, getattr(error, "retry_after_s", None))
                log.warning("attempt=%d failed, next in %.1f s: %s", attempt, delay, cause)
                await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    def _delay_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Full jitter: up to the doubled bound, but not before the server's own wish."""
        bound = min(self._policy.max_delay_s, self._policy.base_delay_s * 2 ** (attempt - 1))
        return max(self._jitter.uniform(0.0, bound), retry_after_s or 0.0)
