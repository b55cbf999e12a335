"""Canned replies instead of a model, for tests: a prompt gets `replies[seed % len(replies)]`.

Words stand for tokens: a reply is cut at `max_tokens` words and before the first stop string. A
choice is the likelier the more often the prompt has it: one occurrence more than it has counts.
"""

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from serving.backends.base import Backend
from serving.client import (
    BatchingClient,
    CompletionClient,
    Probabilities,
    RequestPolicy,
    Scores,
    Text,
)
from serving.debate.prompts import first_words
from serving.messages import Completion, Sampling
from serving.models import Endpoint, Placement, ServedModel


class Scripted(Backend, frozen=True):
    """Models that say what the test says."""

    kind: Literal["scripted"] = "scripted"
    replies: tuple[str, ...] = Field(default=("reply",), min_length=1)
    """What there is to say."""

    def deploy_all(
        self, models: Sequence[ServedModel], placement: Placement
    ) -> dict[str, Endpoint]:
        """Nothing to start; see `Backend.deploy_all`."""
        return {
            model.name: Endpoint(model=model.name, digest=model.digest, base_url="", app="")
            for model in models
        }

    def client(self, endpoint: Endpoint, policy: RequestPolicy | None = None) -> CompletionClient:
        """A client of the script; see `Backend.client`."""
        return BatchingClient(ScriptedTransport(self.replies), policy)

    def remove(self, endpoint: Endpoint) -> None:
        """Nothing to stop."""


@dataclass
class ScriptedTransport:
    """Answers from a list and remembers what it was asked."""

    replies: tuple[str, ...]
    seeds_per_request: bool = True
    prompts: list[str] = field(default_factory=list)

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        """One reply per prompt."""
        self.prompts.extend(prompts)
        return [self._reply(sampling, seed) for seed in seeds]

    async def score(
        self, prompts: Sequence[str], choices: Sequence[str], timeout_s: float
    ) -> list[Scores]:
        """Logarithm of each choice's share of what the prompt has of all choices."""
        self.prompts.extend(prompts)
        counts = [[1 + prompt.count(choice) for choice in choices] for prompt in prompts]
        return [tuple(math.log(count / sum(row)) for count in row) for row in counts]

    async def classify(self, texts: Sequence[Text], timeout_s: float) -> list[Probabilities]:
        """Of two classes, by how many of a text's words are capitalised; of options, by length."""
        found: list[Probabilities] = []
        for text in texts:
            if isinstance(text, str):
                words = text.split()
                share = (1 + sum(word[0].isupper() for word in words)) / (2 + len(words))
                found.append((1 - share, share))
            else:
                total = sum(1 + len(option) for option in text)
                found.append(tuple((1 + len(option)) / total for option in text))
        return found

    async def stream(
        self, prompt: str, sampling: Sampling, seed: int, timeout_s: float
    ) -> AsyncIterator[str]:
        """The reply, word by word."""
        self.prompts.append(prompt)
        for index, word in enumerate(self._reply(sampling, seed).text.split()):
            yield word if index == 0 else f" {word}"

    async def aclose(self) -> None:
        """Nothing to close."""

    def _reply(self, sampling: Sampling, seed: int) -> Completion:
        whole = self.replies[seed % len(self.replies)]
        text = first_words(whole, sampling.max_tokens)
        for stop in sampling.stop:
            text = text.partition(stop)[0]
        reason = "length" if len(whole.split()) > sampling.max_tokens else "stop"
        return Completion(text, len(text.split()), reason)
