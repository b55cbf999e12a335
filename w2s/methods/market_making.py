"""A weak supervisor that reads arguments against its own naive answer (Lang et al. 2025, ablation).

What is argued for depends on what the naive weak model picked. On the rows it was trained on it
picks the truth, so arguments against its picks would be arguments against the label. The picks of
`weak_train` are therefore made by models that did not learn the row.
"""

from typing import Literal

from pydantic import Field

from serving.debate.protocols import market_making
from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.types import Split


class MarketMaking(Method):
    """A speaker a row, against what the naive supervisor picked, in the supervisor's input."""

    kind: Literal["market_making"] = "market_making"
    debater: str = "strong"
    """Who argues: `strong`, `weak`, a rung of the ladder or a speaker of the sweep."""
    judge: str | None = None
    """Who asks questions or chooses among candidates, where the protocol has that; None: the weak
    model."""
    protocol: market_making.MarketMaking = market_making.MarketMaking()
    """How the speaker speaks."""
    num_folds: int = Field(default=2, ge=2, le=16)
    """Parts of `weak_train`; the picks in each are made by a naive supervisor of the others."""

    @property
    def truth_in_contexts(self) -> frozenset[Split]:
        """`weak_train`, through the naive supervisor whose picks are argued against."""
        return frozenset({"weak_train"})

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """The arguments."""
        debater = setup.named(self.debater)
        judge = None if self.judge is None else setup.named(self.judge)
        against = setup.cross_fitted(self.num_folds)
        return (setup.debate(debater, judge=judge, protocol=self.protocol, against=against),)

    def supervision(self, setup: Setup) -> Stage:
        """The weak supervisor with the arguments."""
        return setup.supervisor(*self.contexts(setup))
