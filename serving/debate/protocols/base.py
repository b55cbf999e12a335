"""What a debate protocol is: who speaks when, who defends what, and who has read which turns.

A debate goes in rounds. The speakers of one round do not read each other; from the next round on
their turns are there to be read, as `visible` says. What can be added to any protocol is here: the
judge's questions, the best of several candidates, a protagonist who chooses its position, private
thinking and checked quotes. A kind says who speaks in which round, and what it reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from serving.debate.types import SIDES, Position, Side, Turn, other
from serving.messages import ServingSpec, seed_of


@dataclass(frozen=True, slots=True)
class Slot:
    """One turn to be made."""

    side: Side
    """Who speaks."""
    round: int
    """Round of the debate, the judge's included."""
    index: int
    """Rounds of the same kind (speeches, or questions of the judge) before this one."""


class DebateProtocol(ServingSpec, frozen=True):
    """Order and visibility of turns, and how they are sampled."""

    kind: str
    """Name of the protocol: the name of its file."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the debaters' logits; debates of different seeds differ only above 0."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Probability mass of the tokens that may be drawn."""
    order: Literal["drawn", "A_correct", "B_correct"] = "drawn"
    """Which side defends that the proposed answer is correct: drawn for every question, or fixed.
    Debates in the two fixed orders, judged together, cancel what a judge makes of sides alone."""
    open: bool = False
    """Whether a protagonist chooses what it defends, by its own belief (Kenton et al. 2024). The
    debater is the protagonist, on whichever side has the position it chose; the opponent has the
    other one."""
    judge_questions: bool = False
    """Whether the judge asks a question after every round but the last; the speakers after it read
    it (the interactive protocols of Khan et al. 2024)."""
    best_of: int = Field(default=1, ge=1, le=64)
    """Candidates drawn a turn; the one that most persuades the judge is said (Khan et al. 2024)."""
    thinking: bool = False
    """Whether speakers first think in private (`<thinking>`), which nobody else reads."""
    verify_quotes: bool = False
    """Whether quotes (`<quote>`) are checked against the passage and marked as verified or not."""
    hide_passage: bool = False
    """Whether only debaters read the passage of a question: the judge, and whoever reads the
    transcript, gets the question without it."""

    consults: ClassVar[bool] = False
    """Whether speakers have no opponent to reply to."""
    argues_against: ClassVar[bool] = False
    """Whether positions follow from what a model picked, and nobody draws them."""

    @model_validator(mode="after")
    def _positions_have_one_source(self) -> Self:
        if self.order != "drawn" and not self.has_orders:
            raise ValueError(
                f"order {self.order!r} has no meaning where positions are not drawn; leave it out"
            )
        return self

    def rounds(self) -> tuple[tuple[Side, ...], ...]:
        """Who speaks in each round, without the judge's questions."""
        raise NotImplementedError

    def visible(self, turns: Sequence[Turn], side: Side) -> Sequence[Turn]:
        """What a debater has read of the turns of earlier rounds; here all of them."""
        return turns

    @property
    def sides(self) -> tuple[Side, ...]:
        """The debaters that have turns."""
        return tuple(side for side in SIDES if any(side in speak for speak in self.rounds()))

    @property
    def needs_judge(self) -> bool:
        """Whether a judge takes part."""
        return self.judge_questions or self.best_of > 1

    @property
    def has_orders(self) -> bool:
        """Whether there are two ways to hand out the positions."""
        return not self.argues_against and not (self.open and len(self.sides) == 1)

    def in_orders(self) -> tuple[Self, ...]:
        """The protocol in both orders, or itself where there is one."""
        if not self.has_orders:
            return (self,)
        return tuple(self.model_copy(update={"order": order}) for order in _ORDERS)

    def slots(self) -> tuple[Slot, ...]:
        """Every turn of a debate in order, the judge's questions included."""
        found: list[Slot] = []
        rounds = self.rounds()
        for index, speak in enumerate(rounds):
            number = 2 * index if self.judge_questions else index
            found += [Slot(side, number, index) for side in speak]
            if self.judge_questions and index + 1 < len(rounds):
                found.append(Slot("judge", number + 1, index))
        return tuple(found)

    def positions(self, question_id: str, seed: int, pick: Position = "") -> dict[Side, Position]:
        """Who defends what: a fair coin for every question and seed, independent of the answer.

        Args:
            question_id: id of the question.
            seed: seed of the debates.
            pick: what the protagonist of an open debate chose, or what a model picked in a protocol
                that argues against it.
        """
        if self.argues_against:
            return {"A": other(pick)}
        if self.open and len(self.sides) == 1:
            return {"A": pick}
        heads = seed_of("sides", question_id, seed) % 2 == 0
        a_correct = heads if self.order == "drawn" else self.order == "A_correct"
        both: tuple[Position, ...] = (
            ("correct", "incorrect") if a_correct else ("incorrect", "correct")
        )
        return {side: both[SIDES.index(side)] for side in self.sides}

    def voice(self, side: Side, position: Position, pick: Position = "") -> Side:
        """Whose model speaks: that of A, B or the judge.

        In an open debate the model of A is the protagonist's, whichever side it speaks for.
        """
        if side == "judge" or not self.open:
            return side
        return "A" if position == pick else "B"

    def turn_seed(
        self, question_id: str, seed: int, position: Position, round: int, candidate: int = 0
    ) -> int:
        """Seed of one request: a function of (row, seed, position, round, candidate)."""
        last = (candidate,) if candidate else ()
        return seed_of("turn", question_id, seed, position, round, *last)


_ORDERS = ("A_correct", "B_correct")
