"""How completions and scores are asked for: bounded, batched, retried, each prompt with its seed.

`CompletionClient` is what callers hold. `BatchingClient` is its one implementation: it cuts the
prompts into requests, keeps a bounded number in flight, tries failed ones again, and hands results
over as they finish. A backend gives it a `Transport`, which sends one request and nothing else.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import Field

from serving.budget import Meter, estimated_tokens
from serving.errors import CompletionFailed, TransientFailure
from serving.messages import Completion, Sampling, ServingSpec

log = logging.getLogger(__name__)

R = TypeVar("R")
Scores = tuple[float, ...]
"""Log-probability of each choice as what comes after one prompt, in nats."""
OnCompletion = Callable[[int, Completion], None]
OnScores = Callable[[int, Scores], None]
Text = str | tuple[str, ...]
"""What a classifier reads: one text, or the texts of a row that it chooses among."""
Probabilities = tuple[float, ...]
"""Probability of each class; they add up to 1."""
OnProbabilities = Callable[[int, Probabilities], None]


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

    async def score(
        self,
        prompts: Sequence[str],
        choices: Sequence[str],
        on_scores: OnScores | None = None,
    ) -> list[Scores]:
        """How likely each choice is as what comes after each prompt; nothing is sampled.

        Args:
            prompts: texts to go on from.
            choices: texts that may come next, the same for all prompts. Prompt and choice are
            tokenized together: a choice brings its own leading space.
            on_scores: called with a prompt's index and scores as soon as its request is done.

        Returns:
            For each prompt the log-probability of each choice, in nats: the sum over its tokens
            (see `serving.scoring` for a token that spans prompt and choice).

        Raises:
            CompletionFailed: a request failed for good, or the server cannot say how likely a text
            is; the other requests were cancelled.
        """
        ...

    async def classify(
        self, texts: Sequence[Text], on_probabilities: OnProbabilities | None = None
    ) -> list[Probabilities]:
        """Class probabilities of every text, by a served classifier.

        Args:
            texts: what it reads.
            on_probabilities: called with a text's index and probabilities as soon as its request
            is done.

        Raises:
            CompletionFailed: a request failed for good, or the model is no classifier; the other
            requests were cancelled.
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
    """Whether one request can carry several prompts, with different seeds."""

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        """Complete the prompts of one request.

        Raises:
            TransientFailure: another attempt may work.
            CompletionFailed: it will not.
        """
        ...

    async def score(
        self, prompts: Sequence[str], choices: Sequence[str], timeout_s: float
    ) -> list[Scores]:
        """Score the choices after the prompts of one request; raises as `send` does."""
        ...

    async def classify(self, texts: Sequence[Text], timeout_s: float) -> list[Probabilities]:
        """Class probabilities of the texts of one request; raises as `send` does."""
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

    def __init__(
        self,
        transport: Transport,
        policy: RequestPolicy | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Args: meter: limits of what costs something; its transport books what answers cost."""
        self._transport = transport
        self._meter = meter
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
        timeout_s = self._policy.timeout_s
        return await self._in_requests(
            [estimated_tokens(prompt) + sampling.max_tokens for prompt in prompts],
            lambda part: self._transport.send(prompts[part], sampling, seeds[part], timeout_s),
            on_completion,
        )

    async def score(
        self,
        prompts: Sequence[str],
        choices: Sequence[str],
        on_scores: OnScores | None = None,
    ) -> list[Scores]:
        """Score the choices after every prompt; see `CompletionClient.score`."""
        timeout_s = self._policy.timeout_s
        # A server that echoes reads the prompt alone and with each choice.
        times = 1 + len(choices)
        return await self._in_requests(
            [times * (estimated_tokens(prompt) + 1) for prompt in prompts],
            lambda part: self._transport.score(prompts[part], choices, timeout_s),
            on_scores,
        )

    async def classify(
        self, texts: Sequence[Text], on_probabilities: OnProbabilities | None = None
    ) -> list[Probabilities]:
        """Class probabilities of every text; see `CompletionClient.classify`."""
        timeout_s = self._policy.timeout_s
        return await self._in_requests(
            [estimated_tokens("".join(text)) for text in texts],
            lambda part: self._transport.classify(texts[part], timeout_s),
            on_probabilities,
        )

    async def stream(self, prompt: str, sampling: Sampling, seed: int) -> AsyncIterator[str]:
        """Complete one prompt, piece by piece; not retried, because pieces are already out."""
        tokens = estimated_tokens(prompt) + sampling.max_tokens
        async with self._slots, self._metered(tokens):
            async for piece in self._transport.stream(
                prompt, sampling, seed, self._policy.timeout_s
            ):
                yield piece

    async def aclose(self) -> None:
        """Give connections back."""
        await self._transport.aclose()

    async def _in_requests(
        self,
        tokens: Sequence[int],
        send: Callable[[slice], Awaitable[list[R]]],
        on_result: Callable[[int, R], None] | None,
    ) -> list[R]:
        """Cut the prompts into requests, keep a bounded number of them in flight.

        Args:
            tokens: for each prompt an estimate of what it takes, in and out.
            send: one attempt at a part of the prompts.
            on_result: gets results as they come.
        """
        num_prompts = len(tokens)
        size = self._policy.prompts_per_request if self._transport.seeds_per_request else 1
        results: dict[int, R] = {}

        async def request(start: int) -> None:
            part = slice(start, min(start + size, num_prompts))
            async with self._slots:
                found = await self._attempt(tokens[part], lambda: send(part))
            for index, result in enumerate(found, start):
                results[index] = result
                if on_result is not None:
                    on_result(index, result)

        await run_all(request(start) for start in range(0, num_prompts, size))
        return [results[index] for index in range(num_prompts)]

    async def _attempt(
        self, tokens: Sequence[int], send: Callable[[], Awaitable[list[R]]]
    ) -> list[R]:
        policy, num_prompts = self._policy, len(tokens)
        for attempt in range(1, policy.max_attempts + 1):
            try:
                async with self._metered(sum(tokens)):
                    results = await asyncio.wait_for(send(), policy.timeout_s)
                if len(results) != num_prompts:
                    raise CompletionFailed(
                        f"asked about {num_prompts} prompts, got {len(results)} answers"
                    )
                return results
            except (TransientFailure, TimeoutError) as error:
                cause = str(error) or f"no answer within {policy.timeout_s:g} s"
                if attempt == policy.max_attempts:
                    raise CompletionFailed(
                        f"{num_prompts} prompts failed after {attempt} attempts: {cause}"
                    ) from error
                delay = self._delay_s(attempt, getattr(error, "retry_after_s", None))
                log.warning("attempt=%d failed, next in %.1f s: %s", attempt, delay, cause)
                await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    def _metered(self, tokens: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Waits for room in the limits, where there are any; its time is not the attempt's."""
        return self._meter.request(tokens) if self._meter else contextlib.nullcontext()

    def _delay_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Full jitter: up to the doubled bound, but not before the server's own wish."""
        bound = min(self._policy.max_delay_s, self._policy.base_delay_s * 2 ** (attempt - 1))
        return max(self._jitter.uniform(0.0, bound), retry_after_s or 0.0)
