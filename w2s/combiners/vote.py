"""Votes: each member counts for its most probable class (Sang et al. 2024, bagging)."""

from typing import Literal

from w2s.combiners.base import Combiner, Floats, HeldOut


def shares_of_largest(values: Floats) -> Floats:
    """One-hot of the largest value along the last axis; equals share the 1."""
    largest = (values == values.max(-1, keepdims=True)).astype(float)
    return largest / largest.sum(-1, keepdims=True)


class Vote(Combiner):
    """Share of the members that vote for each class, or the majority's class alone.

    A member whose largest probabilities are equal splits its vote; so does a tied majority.
    """

    kind: Literal["vote"] = "vote"
    hard: bool = False
    """Whether the class with most votes gets all probability, in place of its share."""

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """Count votes."""
        votes_NC = shares_of_largest(probabilities_MNC).mean(0)
        return shares_of_largest(votes_NC) if self.hard else votes_NC
