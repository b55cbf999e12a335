"""Consultancy: a speaker without an opponent argues for one answer.

Lang, Huang and Li (2025) sample the answer. Khan et al. (2024) have both answers argued for, in
separate runs (the two orders) and with a judge who asks (`judge_questions`); Kenton et al. (2024)
also let the consultant choose (`open`).
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from serving.debate.protocols.base import DebateProtocol
from serving.debate.types import SIDES, Side, Turn


class Consultancy(DebateProtocol, frozen=True):
    """One consultant for one answer, or two who do not read each other."""

    kind: Literal["consultancy"] = "consultancy"
    position: Literal["sampled", "both"] = "sampled"
    """What is argued for: one position (a fair coin, or as `order` says), or both, each by a
    consultant of its own."""
    num_turns: int = Field(default=1, ge=1, le=6)
    """Speeches of a consultant; in later ones it reads its earlier ones and the judge's questions.
    """

    consults: ClassVar[bool] = True

    def rounds(self) -> tuple[tuple[Side, ...], ...]:
        """A alone, or A and B beside each other."""
        return (SIDES if self.position == "both" else SIDES[:1],) * self.num_turns

    def visible(self, turns: Sequence[Turn], side: Side) -> Sequence[Turn]:
        """Its own speeches and the judge's questions."""
        return [turn for turn in turns if turn.side in (side, "judge")]
