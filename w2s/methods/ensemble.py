"""Any methods' supervisors, combined."""

from typing import Literal

from pydantic import Field

from w2s.methods._combined import MAX_MEMBERS, Combined, member_seeds
from w2s.methods.base import Method
from w2s.spec import OneOf, parse
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.types import Split


class Ensemble(Combined):
    """Combines the supervision of other methods, each at one seed or several."""

    kind: Literal["ensemble"] = "ensemble"
    of: tuple[OneOf[Method], ...] = Field(
        default_factory=lambda: (parse(Method, "naive"), parse(Method, "debate")), min_length=1
    )
    """The methods whose supervisors are combined."""
    num_seeds: int = Field(default=1, ge=1, le=MAX_MEMBERS)
    """Supervisors of each method: what differs between them is all that a seed draws, debates
    and finetuning."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Those of the methods within, too."""
        return super().truth_in_labels.union(*(method.truth_in_labels for method in self.of))

    @property
    def truth_in_contexts(self) -> frozenset[Split]:
        """Those of the methods within."""
        return frozenset().union(*(method.truth_in_contexts for method in self.of))

    def each(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervision of each method: all methods at the first seed, then at the next."""
        return tuple(method.supervision(here) for here in self._seeds(setup) for method in self.of)

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """Those of the methods within."""
        return tuple(
            stage
            for here in self._seeds(setup)
            for method in self.of
            for stage in method.contexts(here)
        )

    def _seeds(self, setup: Setup) -> list[Setup]:
        return [setup.at_seed(seed) for seed in member_seeds(setup.seed, self.num_seeds)]
