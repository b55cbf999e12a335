"""Sequential debate (Lang, Huang and Li 2025): A and B take turns and read all that was said.

With three turns A opens, B replies, A has the last word; sides are assigned at random, so neither
position always does.
"""

from typing import Literal

from pydantic import Field

from serving.debate.protocols.base import DebateProtocol
from serving.debate.types import SIDES, Side


class Sequential(DebateProtocol, frozen=True):
    """A, B, A, ... with a running transcript."""

    kind: Literal["sequential"] = "sequential"
    num_turns: int = Field(default=3, ge=2, le=6)
    """Speeches in all; the paper uses 3 and finds that more hurt."""

    def rounds(self) -> tuple[tuple[Side, ...], ...]:
        """A, B, A, ..."""
        return tuple((SIDES[index % 2],) for index in range(self.num_turns))
