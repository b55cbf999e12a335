"""The student learns every member of an ensemble (Cui et al. 2024; RAVEN 2025).

An ensemble makes one label of its members' labels before the student sees them. Here the student
learns them all, sum_m w_m L(z, y_m): with the loss `xent` or `kl` that is the paper's naive
multi-weak, with `evidential` its Bayesian multi-weak, and with learned weights RAVEN. A loss that
is linear in the label, as cross-entropy is, has the gradient of the weighted mean label: there
`multi_weak` and the ensemble's mean are the same student.
"""

from typing import Literal

from pydantic import Field

from w2s.errors import UserError
from w2s.methods._around import Around
from w2s.methods.base import Method
from w2s.spec import OneOf, parse
from w2s.stages.base import Stage
from w2s.stages.finetune import Finetune
from w2s.stages.members import MemberLabels
from w2s.stages.probe import Probe
from w2s.stages.setup import Setup
from w2s.weightings.base import Weighting


class MultiWeak(Around):
    """All members of an ensemble teach the student at once, each with a weight.

    With the loss `evidential` this is Bayesian weak-to-strong. `of` is any method with members:
    an ensemble of seeds, debates or model families.
    """

    kind: Literal["multi_weak"] = "multi_weak"
    of: OneOf[Method] = Field(
        default_factory=lambda: parse(Method, {"kind": "finetune_ensemble", "num_members": 3})
    )
    """The ensemble whose members teach."""
    weights: OneOf[Weighting] = Field(default_factory=lambda: parse(Weighting, "mean"))
    """How much each member counts: `mean`, `fixed`, `dynamic` or `learned`."""

    def labels(self, setup: Setup) -> Stage:
        """The labels of every member.

        Raises:
            UserError: the method within has no members, or the weights are for another number.
        """
        members = self.of.members(setup)
        if len(members) < 2:
            raise UserError(
                f"multi_weak learns from several supervisors; {self.of.kind!r} has one: set `of` "
                "to an ensemble, such as finetune_ensemble"
            )
        self.weights.check_members(len(members))
        return MemberLabels(members=members, weights=self.weights)

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """As in the method within.

        Raises:
            UserError: learned weights would not move in so short a training.
        """
        student = self.of.learn(setup, labels)
        if isinstance(student, Finetune | Probe):
            self.weights.check_epochs(student.train.epochs)
        return student
