from typing import Any

import pytest

from serving.debate.protocols.sequential import Sequential
from w2s.errors import UserError
from w2s.losses.confidence import Confidence
from w2s.methods.base import Method
from w2s.models.source import PretrainedModel
from w2s.spec import parse
from w2s.stages.base import Stage, closure
from w2s.stages.data import GroundTruth
from w2s.stages.features import Features
from w2s.stages.prompt import Prompted
from w2s.stages.setup import Setup
from w2s.tasks.almanac import Almanac
from w2s.training.config import TrainConfig

WEAK, STRONG = (PretrainedModel(path=name, fingerprint=name) for name in ("weak", "strong"))


def setup(seed: int = 0) -> Setup:
    return Setup(
        task=Almanac(),
        data="",
        weak=WEAK,
        strong=STRONG,
        ladder={"weak": WEAK, "strong": STRONG},
        loss=Confidence(),
        supervisor_train=TrainConfig(),
        student_train=TrainConfig(),
        ceiling_train=TrainConfig(),
        protocol=Sequential(),
        seed=seed,
    )


def student(seed: int = 0, **fields: Any) -> Prompted:
    stage = parse(Method, {"kind": "prompting", **fields}).student(setup(seed))
    assert isinstance(stage, Prompted)
    return stage


def truths(stage: Stage) -> set[str]:
    return {given.split for given in closure([stage]).values() if isinstance(given, GroundTruth)}


def test_the_student_is_the_strong_base_model_shown_the_weak_supervisors_labels() -> None:
    stage = student()
    assert stage.model == STRONG
    assert stage.served_models == (STRONG,)
    assert stage.demos is not None
    assert stage.demos.labels == setup().supervisor()
    assert stage.demos.number == 5
    assert truths(stage) == {"weak_train"}
    assert student(seed=1).key != stage.key


def test_zero_shot_needs_no_supervisor_and_is_the_same_at_every_seed() -> None:
    stage = student(num_demos=0)
    assert stage.demos is None
    assert truths(stage) == set()
    assert stage == setup().zero_shot(STRONG) == student(seed=1, num_demos=0, selection="nearest")


def test_true_labels_in_demonstrations_are_those_of_strong_train() -> None:
    stage = student(demo_labels="truth")
    assert stage.demos is not None
    assert stage.demos.labels == setup().truth("strong_train")
    assert truths(stage) == {"strong_train"}


def test_neighbours_with_the_same_labels_are_one_stage_for_all_seeds() -> None:
    nearest = {student(seed, demo_labels="truth", selection="nearest").key for seed in range(3)}
    assert len(nearest) == 1
    stage = student(selection="nearest_features")
    assert stage.demos is not None
    assert isinstance(stage.demos.neighbours, Features)
    assert stage.demos.neighbours.source == STRONG


@pytest.mark.parametrize("fields", [{"demo_labels": "truth"}, {"num_demos": 0}])
def test_confidence_of_labels_that_have_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="show_confidence shows the supervisor's confidence"):
        student(show_confidence=True, **fields)


def test_tables_tell_the_arms_apart() -> None:
    labels = [
        parse(Method, {"kind": "prompting", **fields}).label
        for fields in (
            {},
            {"num_demos": 0},
            {"num_demos": 8, "demo_labels": "truth"},
            {"selection": "nearest", "show_confidence": True},
        )
    ]
    assert labels == [
        "prompting",
        "prompting(zero-shot)",
        "prompting(8, truth)",
        "prompting(nearest, confidence)",
    ]


def test_names_of_stages_tell_the_arms_apart() -> None:
    assert student(num_demos=0).name == "prompted-strong-zero-shot"
    assert student(seed=2).name == "prompted-strong-5-random-weak-s2"
    nearest = student(num_demos=3, demo_labels="truth", selection="nearest")
    assert nearest.name == "prompted-strong-3-nearest-truth-s0"


def test_the_almanac_asks_for_a_verdict_in_its_own_words() -> None:
    template = Almanac().prompt_template()
    assert template.render("Q: Ada Moss city Tola") == "Q: Ada Moss city Tola"
    assert template.labels == (" no", " yes")
