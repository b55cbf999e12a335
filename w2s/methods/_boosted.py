"""A method whose supervisors learn one after the other."""

from dataclasses import replace

from pydantic import Field

from w2s.methods._combined import learning_from, refuse_corrections
from w2s.methods.base import Method
from w2s.spec import OneOf, parse
from w2s.stages.base import Stage
from w2s.stages.boosting import Boosted, Form, Reweighted
from w2s.stages.data import GroundTruth
from w2s.stages.setup import Setup
from w2s.types import SPLITS, Split

MAX_ROUNDS = 20


class Rounds(Method):
    """Supervisors in rounds, each started afresh; seeds and debates are the experiment's."""

    of: OneOf[Method] = Field(default_factory=lambda: parse(Method, "naive"))
    """The method whose supervisor is boosted; the unaided one by default."""
    num_rounds: int = Field(default=5, ge=2, le=MAX_ROUNDS)
    """Supervisors. Fewer rounds beside more cost nothing: they are the first of them."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Those of the method within."""
        return self.of.truth_in_labels

    @property
    def truth_in_contexts(self) -> frozenset[Split]:
        """Those of the method within."""
        return self.of.truth_in_contexts

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """Those of the method within."""
        return self.of.contexts(setup)

    def first(self, setup: Setup) -> Stage:
        """The supervisor of the first round: the plain one, that predicts its own rows too.

        Raises:
            UserError: it would be a correction of others.
        """
        refuse_corrections(self, setup)
        return self.of.supervision(replace(setup, supervisor_predicts=SPLITS))


class AdaBoosted(Rounds):
    """AdaBoost in one of its forms."""

    def rounds(self, setup: Setup) -> tuple[Reweighted, ...]:
        """What the rounds come to; each has its supervisor in `predictions`.

        Raises:
            UserError: the method within learns nothing from `weak_train`.
        """
        labels, supervisor = setup.weak_truth, self.first(setup)
        found = []
        for _ in range(self.num_rounds):
            if found:
                supervisor = learning_from(self.of, setup, labels)
            labels = Reweighted(
                labels=labels,
                predictions=supervisor,
                form=self._form,
                held_out=self._held_out(setup),
            )
            found.append(labels)
        return tuple(found)

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors, first round first."""
        return tuple(each.predictions for each in self.rounds(setup))

    def supervision(self, setup: Setup) -> Stage:
        """The supervisors, weighed by how often they are right."""
        rounds = self.rounds(setup)
        return Boosted(members=tuple(each.predictions for each in rounds), rounds=rounds)

    @property
    def _form(self) -> Form:
        raise NotImplementedError

    def _held_out(self, setup: Setup) -> GroundTruth | None:
        """Truth that the error of a round is measured on; None: the rows it learnt."""
        return None
