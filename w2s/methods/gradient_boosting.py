"""Gradient boosting of finetuned classifiers (Friedman 2001; Sang et al. 2024, boosting).

The published code regresses residuals on one output and averages the rounds. Here each round
minimises the cross-entropy of the sum of all rounds so far and itself: the gradient for its logits
is then the residual, for any number of classes, and the sum is what is learnt from.
"""

from typing import Literal

from pydantic import Field

from w2s.combiners.product import Product
from w2s.methods._boosted import MAX_ROUNDS, Rounds
from w2s.methods._combined import learning_from
from w2s.stages.base import Stage
from w2s.stages.boosting import Residual
from w2s.stages.ensemble import Ensemble
from w2s.stages.setup import Setup


class GradientBoosting(Rounds):
    """Each round learns what the sum of those before leaves over; their logits are added up."""

    kind: Literal["gradient_boosting"] = "gradient_boosting"
    num_rounds: int = Field(default=3, ge=2, le=MAX_ROUNDS)
    shrinkage: float = Field(default=0.5, gt=0, le=1)
    """Factor of what every round but the first adds."""

    def supervision(self, setup: Setup) -> Stage:
        """The sum of all rounds' logits, as probabilities.

        Raises:
            UserError: the method within learns nothing from `weak_train`.
        """
        return self._sum(self._rounds(setup))

    def arms(self, setup: Setup) -> dict[str, Stage]:
        """The sum after each round but the last."""
        rounds = self._rounds(setup)
        sums = {f"rounds {number}": self._sum(rounds[:number]) for number in range(2, len(rounds))}
        return {"rounds 1": rounds[0], **sums}

    def _rounds(self, setup: Setup) -> tuple[Stage, ...]:
        """A classifier a round; those after the first say what is to be added."""
        rounds = [self.first(setup)]
        for _ in range(self.num_rounds - 1):
            labels = Residual(
                labels=setup.weak_truth, members=tuple(rounds), shrinkage=self.shrinkage
            )
            rounds.append(learning_from(self.of, setup, labels))
        return tuple(rounds)

    def _sum(self, rounds: tuple[Stage, ...]) -> Stage:
        powers = (1.0, *[self.shrinkage] * (len(rounds) - 1))
        return Ensemble(members=rounds, combine=Product(powers=powers))
