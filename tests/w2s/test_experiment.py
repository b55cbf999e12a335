"""What an experiment asks for beside its four evaluations: oversight of all who read something."""

import pytest

from serving.debate.protocols.sequential import Sequential
from tests.w2s.methods.test_method_contract import METHODS, method, pretrained
from w2s.experiment import Experiment
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.stages.base import closure
from w2s.stages.ensemble import Ensemble
from w2s.stages.judge import Judged
from w2s.stages.models import Model
from w2s.stages.oversight import Oversight
from w2s.tasks.almanac import Almanac
from w2s.training.config import TrainConfig


def experiment(of: Method) -> Experiment:
    ladder: dict[str, Model] = {"xs": pretrained(32), "m": pretrained(64), "l": pretrained(128)}
    return Experiment(
        task=Almanac(),
        data="",
        weak=ladder["xs"],
        strong=ladder["l"],
        ladder=ladder,
        method=of,
        loss=Xent(),
        supervisor_train=TrainConfig(),
        student_train=TrainConfig(),
        ceiling_train=TrainConfig(),
        protocol=Sequential(),
    )


@pytest.mark.parametrize("kind", METHODS)
def test_everything_a_supervisor_reads_is_held_against_the_supervisor_that_reads_it(kind: str):
    here = experiment(method(kind))
    roles = here.roles(0)
    read = here.method.contexts(here.setup(0))
    assert {stage.transcripts.key for stage in roles.oversight} == {stage.key for stage in read}
    for stage in roles.oversight:
        # The judge's predictions come from reading just these.
        assert stage.transcripts.key in closure([stage.judged])
        assert stage.transcripts.key not in closure([stage.unaided])


@pytest.mark.parametrize("kind", METHODS)
def test_nothing_is_made_from_oversight(kind: str):
    roles = experiment(method(kind)).roles(0)
    below = closure(roles.evaluations).values()
    assert not any(isinstance(stage, Oversight) for stage in below)
    assert {stage.key for stage in roles} >= {stage.key for stage in roles.oversight}


def test_an_ensemble_is_overseen_member_by_member_and_not_as_a_whole():
    here = experiment(method("debate_ensemble", num_members=3))
    roles = here.roles(1)
    assert len({stage.transcripts.key for stage in roles.oversight}) == 3
    assert not any(isinstance(stage.judged, Ensemble) for stage in roles.oversight)
    assert {stage.unaided.key for stage in roles.oversight} == {roles.floor.predictions.key}


def test_of_a_mixed_ensemble_only_those_who_read_are_overseen():
    mixed = method("ensemble", of=["naive", "debate"])
    (stage,) = experiment(mixed).roles(0).oversight
    alone = experiment(method("debate")).roles(0)
    assert stage.judged.key == alone.supervisor.predictions.key


def test_one_debate_that_several_members_read_is_held_against_each_of_them():
    several = method("bagging", of="debate", num_members=3)
    roles = experiment(several).roles(0)
    assert len({stage.judged.key for stage in roles.oversight}) == 3
    assert len({stage.transcripts.key for stage in roles.oversight}) == 1


def test_a_zero_shot_judge_is_held_against_itself_without_transcripts():
    (stage,) = experiment(method("judge")).roles(0).oversight
    assert isinstance(stage.judged, Judged)
    assert isinstance(stage.unaided, Judged)
    assert stage.unaided.transcripts is None
    assert stage.unaided.model == stage.judged.model
