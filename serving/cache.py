"""Answers that were paid for, kept: the same question to the same model gets the same text again.

A sampled text cannot be had a second time: providers change models, and seeds are a wish at best.
So `CachingClient` looks a request up by (model digest, prompt, sampling, seed), or for scores by
(model digest, prompt, choices), before it asks, and writes every answer down as it comes. Processes
may share a cache; where two ask at the same moment, both get the answer that was written first.
"""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from serving.budget import connect
from serving.client import (
    CompletionClient,
    OnCompletion,
    OnProbabilities,
    OnScores,
    Probabilities,
    Scores,
    Text,
)
from serving.messages import Completion, Sampling

R = TypeVar("R")


class AnswerCache:
    """Answers by a digest of what was asked: a SQLite file, safe between processes."""

    def __init__(self, path: Path) -> None:
        """Args: path: the file, made if missing."""
        self._db = connect(path)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS answers"
            " (key TEXT PRIMARY KEY, model TEXT, answer TEXT, time REAL)"
        )

    def get(self, key: str) -> str | None:
        """The answer under a key, None where there is none."""
        row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, model: str, answer: str) -> str:
        """Write an answer down unless there is one; returns the one that is there."""
        self._db.execute(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", (key, model, answer, time.time())
        )
        found = self.get(key)
        assert found is not None, "an answer that was written is there"
        return found

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class CachingClient:
    """A `CompletionClient` that asks only what is not in its cache."""

    def __init__(self, client: CompletionClient, cache: AnswerCache, digest: str) -> None:
        """Args: client: asks the rest. digest: identity of the model, part of every key."""
        self._client = client
        self._cache = cache
        self._digest = digest

    async def complete(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """Complete every prompt; see `CompletionClient.complete`."""
        assert len(prompts) == len(seeds), f"{len(prompts)} prompts but {len(seeds)} seeds"
        keys = [
            self._completion_key(prompt, sampling, seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        results = self._known(keys, _completion, on_completion)
        missing = [index for index in range(len(keys)) if index not in results]

        def answered(position: int, completion: Completion) -> None:
            index = missing[position]
            kept = self._cache.put(keys[index], self._digest, json.dumps(asdict(completion)))
            results[index] = _completion(kept)
            if on_completion is not None:
                on_completion(index, results[index])

        if missing:
            await self._client.complete(
                [prompts[index] for index in missing],
                sampling,
                [seeds[index] for index in missing],
                answered,
            )
        return [results[index] for index in range(len(keys))]

    async def score(
        self,
        prompts: Sequence[str],
        choices: Sequence[str],
        on_scores: OnScores | None = None,
    ) -> list[Scores]:
        """Score the choices after every prompt; see `CompletionClient.score`."""
        keys = [self._key("score", prompt, list(choices)) for prompt in prompts]
        results = self._known(keys, _scores, on_scores)
        missing = [index for index in range(len(keys)) if index not in results]

        def answered(position: int, scores: Scores) -> None:
            index = missing[position]
            kept = self._cache.put(keys[index], self._digest, json.dumps(scores))
            results[index] = _scores(kept)
            if on_scores is not None:
                on_scores(index, results[index])

        if missing:
            await self._client.score([prompts[index] for index in missing], choices, answered)
        return [results[index] for index in range(len(keys))]

    async def classify(
        self, texts: Sequence[Text], on_probabilities: OnProbabilities | None = None
    ) -> list[Probabilities]:
        """Class probabilities, which cost nothing that is worth keeping."""
        return await self._client.classify(texts, on_probabilities)

    async def stream(self, prompt: str, sampling: Sampling, seed: int) -> AsyncIterator[str]:
        """Complete one prompt piece by piece; a known completion comes in one piece."""
        known = self._cache.get(self._completion_key(prompt, sampling, seed))
        if known is not None:
            yield _completion(known).text
            return
        async for piece in self._client.stream(prompt, sampling, seed):
            yield piece

    async def aclose(self) -> None:
        """Give connections and the file back."""
        await self._client.aclose()
        self._cache.close()

    def _known(
        self,
        keys: Sequence[str],
        read: Callable[[str], R],
        on_result: Callable[[int, R], None] | None,
    ) -> dict[int, R]:
        found = {}
        for index, key in enumerate(keys):
            answer = self._cache.get(key)
            if answer is not None:
                found[index] = read(answer)
                if on_result is not None:
                    on_result(index, found[index])
        return found

    def _completion_key(self, prompt: str, sampling: Sampling, seed: int) -> str:
        return self._key(
            "complete", prompt, sampling.model_dump(mode="json", exclude_none=True), seed
        )

    def _key(self, *asked: object) -> str:
        text = json.dumps([self._digest, *asked], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _completion(answer: str) -> Completion:
    return Completion(**json.loads(answer))


def _scores(answer: str) -> Scores:
    return tuple(json.loads(answer))
