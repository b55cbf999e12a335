"""A student of all members of an ensemble, and the weights of these."""

import pytest

from tests.w2s.methods.test_method_contract import below, finetuned, method, setup
from w2s.errors import UserError
from w2s.methods.base import Method
from w2s.spec import available
from w2s.stages.ensemble import Ensemble
from w2s.stages.members import MemberLabels
from w2s.weightings.base import Weighting

FIXED = {"kind": "fixed", "values": [0.25, 0.25, 0.5]}


@pytest.mark.parametrize("weights", available(Weighting))
@pytest.mark.parametrize(
    "inner",
    [
        {"kind": "finetune_ensemble", "num_members": 3},
        {"kind": "debate_ensemble", "num_members": 3},
        {"kind": "family_ensemble", "models": ["xs", "s", "m"]},
        {"kind": "ensemble", "of": ["naive", "debate", {"kind": "debate", "debater": "weak"}]},
    ],
    ids=lambda inner: inner["kind"],
)
def test_the_student_learns_the_members_of_any_ensemble(inner: dict, weights: str) -> None:
    here = setup()
    planned = method("multi_weak", of=inner, weights=FIXED if weights == "fixed" else weights)
    student = finetuned(planned.student(here))
    within = method(**inner)
    assert isinstance(student.labels, MemberLabels)
    assert student.labels.members == within.members(here)
    assert student.labels.weights.kind == weights
    assert (student.model, student.loss) == (here.strong, here.loss)
    assert not any(isinstance(stage, Ensemble) for stage in below(student))
    assert planned.supervision(here) == within.supervision(here)
    assert planned.floor(here) == within.floor(here)


def test_a_method_without_members_cannot_teach_as_several() -> None:
    with pytest.raises(UserError, match="'naive' has one: set `of` to an ensemble"):
        method("multi_weak", of="naive").student(setup())


def test_fixed_weights_of_another_number_of_members_are_refused_before_anything_runs() -> None:
    planned = method("multi_weak", of={"kind": "finetune_ensemble"}, weights=FIXED)
    with pytest.raises(UserError, match="3 values for 4 members"):
        planned.student(setup())


def test_what_stands_around_it_changes_the_labels_of_all_members() -> None:
    planned: Method = method("confident_selection", of="multi_weak")
    labels = planned.labels(setup())
    assert isinstance(labels.inputs[0], MemberLabels)


def test_labels_of_tables_name_ensemble_and_weights() -> None:
    planned = method("multi_weak", of="debate_ensemble", weights="learned")
    assert planned.label == "multi_weak(debate_ensemble, weights=learned)"


@pytest.mark.parametrize("mode", ["full", "probe"])
def test_a_student_too_short_for_its_weights_to_move_is_refused(mode: str) -> None:
    weights = {"kind": "learned", "uniform_epochs": 300}
    with pytest.raises(UserError, match="begin to move after 300 epochs, but the student learns"):
        method("multi_weak", weights=weights).student(setup(mode=mode))
