"""The values of a debate: a `Question`, two `Speaker`s, their `Turn`s and the `Transcript`.

A `Side` (A or B) is who speaks; a `Position` is what that side defends. The two are independent:
which position a side gets is drawn anew for every question.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from serving.client import CompletionClient

Side = Literal["A", "B"]
Position = Literal["correct", "incorrect"]
SIDES: tuple[Side, ...] = get_args(Side)
POSITIONS: tuple[Position, ...] = get_args(Position)


def other(position: Position) -> Position:
    """The position that a speaker's opponent defends."""
    return "incorrect" if position == "correct" else "correct"


@dataclass(frozen=True, slots=True)
class Question:
    """What is argued about."""

    id: str
    """Stable across runs; seeds are made from it."""
    text: str
    """The question with the proposed answer, as the debaters read it; never its label."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that argues for one side."""

    model: str
    """Name of the model."""
    digest: str
    """What identifies its weights."""
    client: CompletionClient
    """How it is asked."""


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
    """Speeches in the order they were made."""

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
            turns=tuple(Turn(**turn) for turn in json.loads(row["turns"])),
        )
