"""A weak supervisor that reads one model's advice for one answer (Lang et al. 2025, ablation).

Khan et al. (2024) and Kenton et al. (2024) compare debates with the same.
"""

from typing import Literal

from serving.debate.protocols import consultancy
from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class Consultancy(Method):
    """A consultant a row, who argues for a randomly drawn answer, in the supervisor's input."""

    kind: Literal["consultancy"] = "consultancy"
    consultant: str = "strong"
    """Who argues: `strong`, `weak`, a rung of the ladder or a speaker of the sweep."""
    judge: str | None = None
    """Who asks questions or chooses among candidates, where the protocol has that; None: the weak
    model."""
    protocol: consultancy.Consultancy = consultancy.Consultancy()
    """How consultants speak, such as `{ position = "both" }` for one for each answer."""

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """The consultancies."""
        judge = None if self.judge is None else setup.named(self.judge)
        consultant = setup.named(self.consultant)
        return (setup.debate(consultant, judge=judge, protocol=self.protocol),)

    def supervision(self, setup: Setup) -> Stage:
        """The weak supervisor with what consultants said."""
        return setup.supervisor(*self.contexts(setup))
