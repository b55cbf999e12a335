"""A method whose supervisor is several, combined.

Members of an experiment at seed s that are drawn have the seeds s * MAX_MEMBERS, s * MAX_MEMBERS +
1, ...: the i-th member is the same whatever the number of members, so a small ensemble beside a
large one costs nothing, and no two experiment seeds share a member, so replicates are independent.
"""

from dataclasses import replace

from pydantic import Field

from w2s.combiners.base import Combiner
from w2s.combiners.mean import Mean
from w2s.errors import UserError
from w2s.methods.base import Method
from w2s.spec import OneOf
from w2s.stages.base import Stage
from w2s.stages.boosting import Residual, Reweighted
from w2s.stages.data import GroundTruth
from w2s.stages.ensemble import Ensemble
from w2s.stages.resample import HeldOutTruth, ResampledTruth
from w2s.stages.setup import Setup
from w2s.types import SPLITS, Split

MAX_MEMBERS = 64


def member_seeds(seed: int, num_members: int) -> range:
    """Seeds of the members at an experiment seed."""
    return range(seed * MAX_MEMBERS, seed * MAX_MEMBERS + num_members)


class Combined(Method):
    """Supervisors whose predictions are combined; the subclass says which."""

    combine: OneOf[Combiner] = Mean()
    """How the members' class probabilities become one: `w2s list combiners`."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the groups of `weak_train` that no member learns, for a combiner that is fitted on
    them (`stacking`, `accuracy_weighted`); the others leave nothing out."""
    select_size: bool = False
    """Whether only the first k members are taken, for the k whose combination is most accurate on
    the ground truth of `val` (the smallest of equals)."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Also `val` where the number of members is chosen on it."""
        chosen_on: frozenset[Split] = frozenset({"val"}) if self.select_size else frozenset()
        return super().truth_in_labels | chosen_on

    def each(self, setup: Setup) -> tuple[Stage, ...]:
        """The members' supervision; `setup` says what they learn."""
        raise NotImplementedError

    def samples(self, setup: Setup) -> tuple[Stage, ...]:
        """What each member learns, where it leaves rows out to be scored on; else none."""
        return ()

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """The members; at least two."""
        return self.each(self._learning(setup))

    def supervision(self, setup: Setup) -> Stage:
        """The members, combined.

        Raises:
            UserError: two members are the same supervisor, the combiner's fields are for another
                number of members, or members are corrections of others and are to be judged.
        """
        here = self._learning(setup)
        members = self.each(here)
        different = len({member.key for member in members})
        if different < max(2, len(members)):
            raise UserError(
                f"{self.label} combines {len(members)} supervisors of which {different} differ; "
                "each is to be another one, and there are to be two or more: methods that only "
                "change a student's labels or recipe have the supervisor of the method within"
            )
        self.combine.check_members(len(members))
        return Ensemble(
            members=members,
            combine=self.combine,
            held_out=here.supervisor_labels if self.combine.is_fitted else None,
            size_by=setup.truth("val") if self.select_size else None,
            samples=self.samples(here),
        )

    def _learning(self, setup: Setup) -> Setup:
        """The setup of the members: they leave rows out where the combiner is fitted on some."""
        if self.combine.is_fitted or self.select_size:
            refuse_corrections(self, setup)
        if not self.combine.is_fitted:
            return setup
        held_out = HeldOutTruth(
            labels=setup.weak_truth,
            prompts=setup.prompts,
            share=self.held_out,
            seed=setup.seed,
        )
        return replace(setup, supervisor_labels=held_out, supervisor_predicts=SPLITS)


def refuse_corrections(method: Method, setup: Setup) -> None:
    """Refuse to judge members by how right they are where they are rounds of gradient boosting.

    Raises:
        UserError: supervisors learn on top of others' logits.
    """
    learnt = setup.weak_truth
    while not isinstance(learnt, Residual | GroundTruth):
        assert isinstance(learnt, ResampledTruth | HeldOutTruth | Reweighted)
        learnt = learnt.labels
    if isinstance(learnt, Residual):
        raise UserError(
            f"{method.label!r} cannot stand within gradient_boosting: it asks how right its "
            "supervisors are, and there they are corrections of others; put gradient_boosting "
            "within it, or both into `ensemble`"
        )


def learning_from(method: Method, setup: Setup, labels: Stage) -> Stage:
    """A method's supervision, learnt from truth of `weak_train` with other weights.

    Raises:
        UserError: nothing in it learns from `weak_train`.
    """
    changed = replace(setup, supervisor_labels=labels, supervisor_predicts=SPLITS)
    supervision = method.supervision(changed)
    if supervision.key == method.supervision(replace(changed, supervisor_labels=None)).key:
        raise UserError(
            f"the supervisor of {method.label!r} learns nothing from weak_train, so no sample or "
            "weight of its rows changes it; put a method around that finetunes its supervisor, or "
            "combine seeds of this one with `ensemble`"
        )
    return supervision
