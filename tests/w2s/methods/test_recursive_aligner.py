"""Aligner and student in turn: who teaches whom, and what truth is in it."""

import pytest

from tests.w2s.methods.test_method_contract import below, finetuned, method, setup
from w2s.errors import UserError
from w2s.stages.base import Stage
from w2s.stages.data import GroundTruth
from w2s.stages.finetune import Finetune
from w2s.stages.recursion import AlignerLabels, Anchor, SelectedGeneration


def update_of(aligner: Stage) -> AlignerLabels:
    labels = finetuned(aligner).labels
    assert isinstance(labels, AlignerLabels)
    return labels


def test_each_aligner_learns_of_the_student_before_and_teaches_the_next() -> None:
    here = setup()
    planned = method("recursive_aligner", num_updates=2, of="finetune_ensemble")
    arms = planned.arms(here)
    turns = [f"{role} {n}" for n in range(3) for role in ("aligner", "student")]
    assert list(arms) == [*turns, "anchor alone"]
    within = method("finetune_ensemble")
    assert arms["aligner 0"] == within.labels(here)
    assert arms["student 0"] == within.student(here)
    for number in (1, 2):
        aligner = finetuned(arms[f"aligner {number}"])
        labels = update_of(aligner)
        assert aligner.train_split == "both"
        assert labels.student == arms[f"student {number - 1}"]
        assert labels.other == arms[f"aligner {number - 1}"]
        student = finetuned(arms[f"student {number}"])
        assert student.labels == aligner
        assert student.start is None
        assert student.seed == here.seed
    chosen = planned.student(here)
    assert isinstance(chosen, SelectedGeneration)
    assert chosen.aligners == tuple(arms[f"aligner {n}"] for n in range(3))
    assert chosen.students == tuple(arms[f"student {n}"] for n in range(3))


def test_a_short_recursion_is_the_beginning_of_a_long_one() -> None:
    short, long = (
        method("recursive_aligner", num_updates=number).arms(setup()) for number in (1, 3)
    )
    assert [long[name].key for name in short] == [stage.key for stage in short.values()]


@pytest.mark.parametrize("update", ["student", "aligner"])
def test_the_control_is_the_aligners_model_on_the_anchor_alone(update: str) -> None:
    arms = method("recursive_aligner", update=update).arms(setup())
    alone, aligner = finetuned(arms["anchor alone"]), finetuned(arms["aligner 1"])
    assert alone.labels == update_of(aligner).anchor
    assert alone.train_split == "weak_train"
    assert (alone.model, alone.train, alone.loss) == (aligner.model, aligner.train, aligner.loss)


@pytest.mark.parametrize("update", ["student", "aligner"])
def test_the_next_aligner_is_made_of_the_students_model_or_of_the_weak_one(update: str) -> None:
    here = setup()
    aligner = finetuned(method("recursive_aligner", update=update).arms(here)["aligner 1"])
    if update == "student":
        assert (aligner.model, aligner.loss) == (here.strong, here.loss)
        assert aligner.train == here.student_train
    else:
        assert (aligner.model, aligner.loss.kind) == (here.weak, "xent")
        assert aligner.train == here.supervisor_train


def test_a_second_student_differs_in_its_seed_alone() -> None:
    planned = method("recursive_aligner", consistent_with="second_student")
    labels = update_of(planned.arms(setup())["aligner 1"])
    first, second = finetuned(labels.student), finetuned(labels.other)
    assert first.seed != second.seed
    assert first.model_copy(update={"seed": second.seed}).identity() == second.identity()


def test_no_two_trainings_of_a_recursion_or_of_its_replicates_have_a_seed_in_common() -> None:
    planned = method("recursive_aligner", num_updates=3, consistent_with="second_student")
    seeds: list[int] = []
    for replicate in (0, 1, 2):
        here = setup(replicate)
        aligners = [planned.arms(here)[f"aligner {number}"] for number in (1, 2, 3)]
        seeds += [finetuned(aligner).seed for aligner in aligners]
        seeds += [finetuned(update_of(aligner).other).seed for aligner in aligners]
        seeds.append(here.seed)
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("consistent_with", ["aligner", "second_student"])
@pytest.mark.parametrize("update", ["student", "aligner"])
@pytest.mark.parametrize("inner", ["naive", "debate", "finetune_ensemble", "multi_weak"])
def test_truth_enters_by_the_supervisor_and_the_anchor_alone(
    inner: str, update: str, consistent_with: str
) -> None:
    planned = method("recursive_aligner", of=inner, update=update, consistent_with=consistent_with)
    stages = below(planned.student(setup()), *planned.arms(setup()).values())
    assert {each.split for each in stages if isinstance(each, GroundTruth)} == {"weak_train"}
    for stage in stages:
        if isinstance(stage, Finetune) and stage.train_split != "weak_train":
            assert not any(isinstance(given, Anchor) for given in stage.inputs)
            assert not any(isinstance(given, GroundTruth) for given in stage.inputs)


def test_a_recipe_within_is_that_of_every_student() -> None:
    arms = method("recursive_aligner", of="confident_first").arms(setup())
    assert all(finetuned(arms[f"student {number}"]).start for number in range(3))


def test_an_anchor_of_more_rows_than_there_are_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"an anchor of 100000 rows, but weak_train has \d+"):
        method("recursive_aligner", num_anchor=100_000).student(setup())
