"""What a debate protocol is: who speaks when, who defends what, and who has read which turns."""

from collections.abc import Sequence

from pydantic import Field

from serving.debate.types import SIDES, Position, Side, Turn
from serving.messages import Sampling, ServingSpec, seed_of


class DebateProtocol(ServingSpec, frozen=True):
    """Order and visibility of turns, and how they are sampled."""

    kind: str
    """Name of the protocol: the name of its file."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the debaters' logits; debates of different seeds differ only above 0."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Probability mass of the tokens that may be drawn."""

    def order(self) -> tuple[Side, ...]:
        """Who speaks at each turn."""
        raise NotImplementedError

    def visible(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        """The turns, of those made so far, that the next speaker has read."""
        raise NotImplementedError

    def positions(self, question_id: str, seed: int) -> dict[Side, Position]:
        """Who defends what: a fair coin for every question and seed, independent of the answer."""
        heads = seed_of("sides", question_id, seed) % 2 == 0
        return dict(
            zip(SIDES, ("correct", "incorrect") if heads else ("incorrect", "correct"), strict=True)
        )

    def turn_seed(self, question_id: str, seed: int, position: Position, turn_index: int) -> int:
        """Seed of one request: a function of (row, seed, position, turn)."""
        return seed_of("turn", question_id, seed, position, turn_index)

    def sampling(self, max_tokens: int, exact_length: bool, stop: tuple[str, ...]) -> Sampling:
        """Sampling of one turn."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=max_tokens,
            min_tokens=max_tokens if exact_length else 0,
            stop=stop,
        )
