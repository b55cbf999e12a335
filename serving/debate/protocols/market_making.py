"""Market-making as Lang, Huang and Li (2025) ablate it: argue for what a model did not pick.

One speaker argues against the answer that a model (theirs: the weak model finetuned without
assistance) holds for right; the transcript so far is appended to each further turn. The pick comes
from predictions of every debated row.
"""

from typing import ClassVar, Literal

from pydantic import Field

from serving.debate.protocols.base import DebateProtocol
from serving.debate.types import SIDES, Side


class MarketMaking(DebateProtocol, frozen=True):
    """One speaker against what a model picked."""

    kind: Literal["market_making"] = "market_making"
    order: Literal["drawn"] = "drawn"
    """Nothing to fix here: the pick says what is argued for."""
    open: Literal[False] = False
    """Nothing to choose here: the pick says what is argued for."""
    num_turns: int = Field(default=1, ge=1, le=6)
    """Speeches; in later ones the speaker reads the earlier ones and the judge's questions."""

    consults: ClassVar[bool] = True
    argues_against: ClassVar[bool] = True

    def rounds(self) -> tuple[tuple[Side, ...], ...]:
        """A alone."""
        return (SIDES[:1],) * self.num_turns
