"""How likely a text is as what comes next: which tokens it adds, and what each of them costs.

A choice is tokenized together with its prompt, because a token may span the place where they meet.
All choices of a prompt are scored from the same token on: the first in which the prompt alone and
the prompt with any of the choices differ. Where no token spans the boundary that is the first token
of the choice; else the last characters of the prompt are scored with every choice, so that scores
of one prompt can be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.errors import ServingInputError

T = TypeVar("T", int, str)


@dataclass(frozen=True, slots=True)
class Continuations(Generic[T]):
    """The choices of one prompt, in tokens."""

    context: tuple[T, ...]
    """Tokens that all choices share with the prompt."""
    tails: tuple[tuple[T, ...], ...]
    """What each choice adds to the context; none is empty, no two are equal."""

    def next_tokens(self) -> dict[tuple[T, ...], list[T]]:
        """What must be known: after each beginning of a tail, the tokens that go on with it.

        Choices of one token each need one entry, the empty beginning.
        """
        found: dict[tuple[T, ...], list[T]] = {}
        for tail in self.tails:
            for length, token in enumerate(tail):
                known = found.setdefault(tail[:length], [])
                if token not in known:
                    known.append(token)
        return found

    def scores(self, logprobs: Mapping[tuple[T, ...], Mapping[T, float]]) -> tuple[float, ...]:
        """Log-probability of each choice, in nats.

        Args:
            logprobs: of each token of `next_tokens`, by the beginning of a tail it follows.
        """
        return tuple(
            sum(logprobs[tail[:length]][token] for length, token in enumerate(tail))
            for tail in self.tails
        )


def continuations(
    prompt: Sequence[T], wholes: Sequence[Sequence[T]], choices: Sequence[str]
) -> Continuations[T]:
    """Cut off what the choices share with their prompt.

    Args:
        prompt: tokens of the prompt.
        wholes: tokens of the prompt with each choice.
        choices: the texts, for messages.

    Raises:
        ServingInputError: a choice adds no token, two choices are the same tokens, or the prompt
        has no token of its own to go on from.
    """
    start = min(_num_shared(prompt, whole) for whole in wholes)
    if start == 0:
        raise ServingInputError(
            f"cannot score {choices[0]!r} after a prompt that shares no token with it; "
            "begin the prompt with some text"
        )
    tails = tuple(tuple(whole[start:]) for whole in wholes)
    for choice, tail in zip(choices, tails, strict=True):
        if not tail:
            raise ServingInputError(
                f"choice {choice!r} adds no token to the prompt; give a text that the model reads"
            )
    for index, tail in enumerate(tails):
        if (twin := tails.index(tail)) < index:
            raise ServingInputError(
                f"choices {choices[twin]!r} and {choices[index]!r} are the same tokens for this "
                "model; give texts that it tells apart"
            )
    return Continuations(tuple(prompt[:start]), tails)


def _num_shared(first: Sequence[T], second: Sequence[T]) -> int:
    """Tokens that two texts begin with alike."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
