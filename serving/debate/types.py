"""The values of a debate: a `Question`, its `Speaker`s, their `Turn`s and the `Transcript`.

A `Side` is who speaks: debater A or B, or the judge who asks. A `Position` is what a debater
defends. The two are independent: which position a side gets is drawn anew for every question.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from serving.client import CompletionClient

Side = Literal["A", "B", "judge"]
Position = Literal["correct", "incorrect", ""]
"""What is defended; empty for a judge, who defends nothing."""
SIDES: tuple[Side, ...] = ("A", "B")
"""The debaters."""
POSITIONS: tuple[Position, ...] = ("correct", "incorrect")


def other(position: Position) -> Position:
    """The position that a speaker's opponent defends; none for none."""
    return {"correct": "incorrect", "incorrect": "correct", "": ""}[position]  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class Question:
    """What is argued about."""

    id: str
    """Stable across runs; seeds are made from it."""
    text: str
    """The question with the proposed answer, as the debaters read it; never its label."""
    passage: str = ""
    """The part of `text` that quotes are checked against; empty where there is none."""
    judge_text: str = ""
    """The question as the judge reads it where that differs, such as without its passage."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that argues, asks or chooses."""

    model: str
    """Name of the model."""
    digest: str
    """What identifies its weights."""
    client: CompletionClient
    """How it is asked."""
    count: Callable[[str], int] | None = None
    """Tokens of a text, where its tokenizer is known."""
    max_tokens: int | None = None
    """Most tokens of a prompt together with what comes after it; None: not known."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One speech."""

    side: Side
    """Who spoke."""
    position: Position
    """What that side defends."""
    text: str
    """The argument, without markers and outer white space."""
    num_tokens: int
    """Tokens drawn for it."""
    finish_reason: str
    """`length` or `stop`, as in `Completion`."""
    seed: int
    """Seed of the request."""
    model: str
    """Name of the model that spoke."""
    model_digest: str
    """What identifies its weights."""
    round: int = 0
    """Round it was made in, counted from 0; turns of one round do not read each other."""
    thinking: str = ""
    """What the speaker wrote for itself; nobody else reads it."""
    candidates: tuple[str, ...] = ()
    """All that was drawn where the best of several was taken; `text` is one of them."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """One whole debate, with all that is needed to tell where it came from."""

    question_id: str
    """Id of the question."""
    protocol: str
    """Kind of the protocol."""
    prompts_digest: str
    """Digest of the templates, as `DebatePrompts.digest`."""
    seed: int
    """Seed of the debate; turns and sides are drawn from it and the question's id."""
    turns: tuple[Turn, ...]
    """Speeches and questions in the order they were made."""
    chosen: Position = ""
    """What the protagonist of an open debate chose to defend; empty in other debates."""

    def position_of(self, side: Side) -> Position:
        """What a side defended.

        Raises:
            KeyError: that side never spoke.
        """
        for turn in self.turns:
            if turn.side == side:
                return turn.position
        raise KeyError(f"side {side} has no turn in the debate of {self.question_id!r}")

    def to_row(self) -> dict[str, str | int]:
        """A flat row for parquet or JSON lines; the turns are one JSON column."""
        return {
            "question_id": self.question_id,
            "protocol": self.protocol,
            "prompts_digest": self.prompts_digest,
            "seed": self.seed,
            "chosen": self.chosen,
            "turns": json.dumps([asdict(turn) for turn in self.turns], ensure_ascii=False),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Transcript":
        """The transcript that `to_row` made this row from."""
        return cls(
            question_id=row["question_id"],
            protocol=row["protocol"],
            prompts_digest=row["prompts_digest"],
            seed=int(row["seed"]),
            turns=read_turns(row["turns"]),
            chosen=row["chosen"],
        )


def read_turns(text: str) -> tuple[Turn, ...]:
    """The turns of a transcript from their JSON."""
    return tuple(
        Turn(**{**turn, "candidates": tuple(turn["candidates"])}) for turn in json.loads(text)
    )
