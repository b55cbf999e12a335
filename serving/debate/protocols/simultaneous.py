"""Simultaneous debate (Khan et al. 2024): in every round A and B speak without reading each other.

Khan et al. use three rounds, arguments of at most 100 words and private thinking. The AI debate of
Sang et al. (2024) is two rounds of it with `own_turns = false`: a speaker is shown its opponent's
explanation and not its own.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from serving.debate.protocols.base import DebateProtocol
from serving.debate.types import SIDES, Side, Turn


class Simultaneous(DebateProtocol, frozen=True):
    """A and B at the same time, round after round."""

    kind: Literal["simultaneous"] = "simultaneous"
    num_rounds: int = Field(default=3, ge=1, le=6)
    """Rounds; each has one speech a side."""
    own_turns: bool = True
    """Whether a speaker reads its own earlier speeches beside its opponent's."""

    def rounds(self) -> tuple[tuple[Side, ...], ...]:
        """A and B in every round."""
        return (SIDES,) * self.num_rounds

    def visible(self, turns: Sequence[Turn], side: Side) -> Sequence[Turn]:
        """The earlier rounds, without its own speeches if so set."""
        return [turn for turn in turns if self.own_turns or turn.side != side]
