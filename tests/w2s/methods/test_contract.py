"""What every method promises, whatever it does."""

from collections.abc import Iterator

import pytest

from serving.debate.protocols.sequential import Sequential
from w2s.corpora.base import Corpus
from w2s.losses.confidence import Confidence
from w2s.methods.base import Method
from w2s.models.architecture import Architecture
from w2s.spec import available, parse
from w2s.stages.base import Stage
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.debate import Debate
from w2s.stages.ensemble import Ensemble
from w2s.stages.evaluate import Evaluate
from w2s.stages.finetune import Finetune
from w2s.stages.pretrain import Pretrain
from w2s.stages.setup import Setup
from w2s.stages.transcripts import ShuffledTranscripts
from w2s.tasks.almanac import Almanac
from w2s.training.config import TrainConfig

METHODS = available(Method)


def pretrained(hidden_size: int) -> Pretrain:
    corpus = parse(Corpus, {"kind": "almanac", "rare_share": 0.5, "custom_share": 0.5})
    return Pretrain(
        architecture=Architecture(hidden_size=hidden_size, intermediate_size=64), corpus=corpus
    )


def setup(seed: int = 0) -> Setup:
    return Setup(
        task=Almanac(),
        data="",
        weak=pretrained(32),
        strong=pretrained(64),
        loss=Confidence(),
        supervisor_train=TrainConfig(epochs=3),
        student_train=TrainConfig(epochs=2),
        ceiling_train=TrainConfig(epochs=2),
        protocol=Sequential(),
        seed=seed,
    )


def below(stage: Stage) -> Iterator[Stage]:
    yield stage
    for needed in stage.inputs:
        yield from below(needed)


@pytest.mark.parametrize("kind", METHODS)
def test_planning_is_pure_and_deterministic(kind: str) -> None:
    method = parse(Method, kind)
    assert method.supervision(setup()).key == method.supervision(setup()).key
    assert method.supervision(setup(0)).key != method.supervision(setup(1)).key


@pytest.mark.parametrize("kind", METHODS)
def test_a_student_is_handed_prompts_a_model_and_predictions_never_truth(kind: str) -> None:
    method = parse(Method, kind)
    student = setup().student(method.labels(setup()))
    assert isinstance(student.prompts, Prompts)
    assert not any(isinstance(given, GroundTruth | Evaluate) for given in student.inputs)
    assert student.transcripts is None


@pytest.mark.parametrize("kind", METHODS)
def test_truth_enters_supervision_only_for_weak_train(kind: str) -> None:
    stages = below(parse(Method, kind).labels(setup()))
    assert {stage.split for stage in stages if isinstance(stage, GroundTruth)} == {"weak_train"}


@pytest.mark.parametrize("kind", METHODS)
def test_only_the_student_gets_the_loss_and_the_students_recipe(kind: str) -> None:
    here = setup()
    for stage in below(parse(Method, kind).labels(here)):
        if isinstance(stage, Finetune):
            assert stage.loss.kind == "xent"
            assert stage.train == here.supervisor_train
            assert stage.model == here.weak
    assert here.student(here.supervisor()).loss == here.loss
    assert here.ceiling().loss.kind == "xent"


def test_the_ceiling_trains_on_the_students_rows_with_their_truth() -> None:
    ceiling, student = setup().ceiling(), setup().student(setup().supervisor())
    assert ceiling.train_split == student.train_split == "strong_train"
    assert ceiling.prompts == student.prompts
    assert ceiling.labels == setup().truth("strong_train")


def test_only_evaluate_stages_read_the_truth_of_val_and_test() -> None:
    here = setup()
    debate = parse(Method, "debate_ensemble")
    root = here.evaluate(here.student(debate.labels(here)), supervisor=debate.supervision(here))
    for stage in below(root):
        held_out = [
            given
            for given in stage.inputs
            if isinstance(given, GroundTruth) and given.split in ("val", "test")
        ]
        assert not held_out or isinstance(stage, Evaluate)


def test_a_debate_supervisor_reads_debates_in_training_and_in_labelling() -> None:
    supervision = parse(Method, "debate").supervision(setup())
    assert isinstance(supervision, Finetune)
    assert isinstance(supervision.transcripts, Debate)
    assert set(supervision.transcripts.splits) == {"weak_train", "strong_train", "val", "test"}
    assert supervision.transcripts.debater == setup().strong


def test_controls_of_the_debate_change_the_debater_or_the_transcripts() -> None:
    weak = parse(Method, {"kind": "debate", "debater": "weak"}).supervision(setup())
    shuffled = parse(Method, {"kind": "debate", "transcripts": "shuffled"}).supervision(setup())
    assert isinstance(weak, Finetune)
    assert isinstance(weak.transcripts, Debate)
    assert weak.transcripts.debater == setup().weak
    assert isinstance(shuffled, Finetune)
    assert isinstance(shuffled.transcripts, ShuffledTranscripts)


def test_members_of_an_ensemble_differ_in_debate_and_seed_and_no_replicate_shares_one() -> None:
    method = parse(Method, {"kind": "debate_ensemble", "num_members": 3})
    by_seed = {seed: method.supervision(setup(seed)) for seed in (0, 1)}
    members: list[Finetune] = []
    for supervision in by_seed.values():
        assert isinstance(supervision, Ensemble)
        assert [member.key for member in supervision.members] == [
            member.key for member in method.members(setup(0 if supervision is by_seed[0] else 1))
        ]
        members += [member for member in supervision.members if isinstance(member, Finetune)]
    assert len({member.key for member in members}) == 6
    assert len({member.transcripts.key for member in members if member.transcripts}) == 6


def test_a_small_ensemble_shares_its_members_with_a_larger_one_at_the_first_seed() -> None:
    small, large = (
        parse(Method, {"kind": "debate_ensemble", "num_members": number}).members(setup())
        for number in (2, 4)
    )
    assert {member.key for member in small} < {member.key for member in large}


def test_naive_is_the_supervisor_that_other_methods_assist() -> None:
    assert parse(Method, "naive").supervision(setup()) == setup().supervisor()
    assert parse(Method, "shuffled_labels").supervision(setup()) == setup().supervisor()


def test_labels_of_tables_name_what_is_not_at_its_default() -> None:
    assert parse(Method, "debate").label == "debate"
    assert parse(Method, {"kind": "debate", "debater": "weak"}).label == "debate(weak)"
    assert (
        parse(Method, {"kind": "debate_ensemble", "num_members": 8}).label == "debate_ensemble(8)"
    )
