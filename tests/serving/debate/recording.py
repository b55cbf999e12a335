"""A model for debates that says something else every time and remembers what it was asked."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.client import Scores
from serving.debate.types import Side, Speaker
from serving.messages import Completion, Sampling


def even(prompt: str) -> Scores:
    """Both labels as likely."""
    return (-1.0, -1.0)


@dataclass
class Recording:
    """Says `said<seed>`, after thinking `thought<seed>` if asked, and scores labels as told."""

    belief: Callable[[str], Scores] = even
    words: int = 1
    prompts: dict[int, str] = field(default_factory=dict)
    """What was asked, by seed."""
    scored: list[str] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    async def complete(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        on_completion: Any = None,
    ) -> list[Completion]:
        """One reply a prompt; no seed comes twice."""
        for prompt, seed in zip(prompts, seeds, strict=True):
            assert seed not in self.prompts, "a seed was used twice"
            self.prompts[seed] = prompt
        self.samplings.append(sampling)
        return [
            Completion(self.reply(prompt, seed), 3, "stop")
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def reply(self, prompt: str, seed: int) -> str:
        """What is written with a seed."""
        said = " ".join([f"said{seed}", *["word"] * (self.words - 1)])
        if "<thinking>" not in prompt:
            return said
        return f"<thinking>thought{seed}</thinking><argument>{said}"

    async def score(
        self, prompts: Sequence[str], choices: Sequence[str], on_scores: Any = None
    ) -> list[Scores]:
        """What it believes of each prompt."""
        self.scored += prompts
        return [self.belief(prompt) for prompt in prompts]

    async def stream(self, prompt: str, sampling: Sampling, seed: int) -> AsyncIterator[str]:
        """The reply in two pieces."""
        self.prompts[seed] = prompt
        text = self.reply(prompt, seed)
        yield text[:7]
        yield text[7:]

    async def aclose(self) -> None:
        """Nothing to close."""


def speakers(
    debater: Recording, opponent: Recording | None = None, judge: Recording | None = None
) -> dict[Side, Speaker]:
    """Speakers named after their part, without limits."""
    return {
        "A": Speaker("debater", "d", debater),  # pyright: ignore[reportArgumentType]
        "B": Speaker("opponent", "o", opponent or debater),  # pyright: ignore[reportArgumentType]
        "judge": Speaker("judge", "j", judge or debater),  # pyright: ignore[reportArgumentType]
    }
