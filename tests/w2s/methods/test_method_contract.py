"""What every method promises, whatever it does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.debate.protocols.sequential import Sequential
from w2s.corpora.base import Corpus
from w2s.errors import UserError
from w2s.losses.confidence import Confidence
from w2s.methods._around import Around
from w2s.methods.base import Method
from w2s.models.architecture import Architecture
from w2s.models.source import PretrainedModel
from w2s.spec import available, parse
from w2s.stages.base import Stage, closure
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.debate import Debate
from w2s.stages.difficulty import EasyLabels
from w2s.stages.errors import SyntheticErrors
from w2s.stages.evaluate import Evaluate
from w2s.stages.features import Features
from w2s.stages.finetune import Finetune
from w2s.stages.generative import GenerativeFinetune
from w2s.stages.imitation import StatedLabels
from w2s.stages.knowledge import Questions
from w2s.stages.mixing import MixedLabels
from w2s.stages.pretrain import Pretrain
from w2s.stages.probe import Probe
from w2s.stages.prompt import Prompted
from w2s.stages.selection import ConfidentSelection
from w2s.stages.setup import Setup
from w2s.stages.tokens import Tokens
from w2s.stages.transcripts import ShuffledTranscripts
from w2s.tasks.almanac import Almanac
from w2s.training.config import TrainConfig

METHODS = available(Method)
NEEDS_MEMBERS = {"multi_weak"}
AROUND = [
    kind
    for kind in METHODS
    if isinstance(parse(Method, kind), Around) and kind not in NEEDS_MEMBERS
]
CHAINS = {"trivial_imitation", "recursive_aligner"}
"""Methods whose student is no single finetuning by the recipe within."""
WITHOUT_A_SEED = (Prompts, Questions, GroundTruth, Tokens, Pretrain, Features, Prompted)
"""Stages that replicates may share: nothing in them is drawn, or it is drawn once a world."""


def pretrained(hidden_size: int) -> Pretrain:
    corpus = parse(Corpus, {"kind": "almanac", "rare_share": 0.5, "custom_share": 0.5})
    return Pretrain(
        architecture=Architecture(hidden_size=hidden_size, intermediate_size=64), corpus=corpus
    )


def setup(seed: int = 0, *, mode: str = "full", weak: str = "xs", strong: str = "l") -> Setup:
    sizes = {"xs": 32, "s": 64, "m": 96, "l": 128}
    ladder = {name: pretrained(size) for name, size in sizes.items()}
    return Setup(
        task=Almanac(),
        data="",
        weak=ladder[weak],
        strong=ladder[strong],
        ladder=ladder,
        loss=Confidence(),
        supervisor_train=TrainConfig(epochs=3),
        student_train=TrainConfig.model_validate({"epochs": 4, "mode": mode}),
        ceiling_train=TrainConfig(epochs=2),
        protocol=Sequential(),
        seed=seed,
    )


def method(kind: str, **fields: object) -> Method:
    return parse(Method, {"kind": kind, **fields})


def below(*stages: Stage) -> list[Stage]:
    """The stages and all they are made from."""
    return list(closure(stages).values())


def finetuned(stage: Stage) -> Finetune:
    assert isinstance(stage, Finetune)
    return stage


@pytest.mark.parametrize("kind", METHODS)
def test_planning_is_pure_and_deterministic(kind: str) -> None:
    planned = method(kind)
    for hook in ("supervision", "labels", "student", "floor", "ceiling"):
        keys = [getattr(planned, hook)(setup(seed)).key for seed in (0, 0, 1)]
        assert keys[0] == keys[1], hook
        if not isinstance(getattr(planned, hook)(setup()), Prompted):
            assert keys[0] != keys[2], hook


@pytest.mark.parametrize("kind", METHODS)
def test_replicates_share_only_what_no_seed_changes(kind: str) -> None:
    planned = method(kind)
    roles: tuple[Callable[[Setup], list[Stage]], ...] = (
        lambda here: [planned.student(here), planned.supervision(here), *planned.members(here)],
        lambda here: [planned.floor(here)],
        lambda here: [planned.ceiling(here)],
        lambda here: list(planned.arms(here).values()),
    )
    for role in roles:
        first, second = (closure(role(setup(seed))) for seed in (0, 1))
        shared = {type(first[key]) for key in first.keys() & second.keys()}
        assert shared <= set(WITHOUT_A_SEED)


@pytest.mark.parametrize("kind", METHODS)
def test_a_student_is_handed_prompts_a_model_and_predictions_never_truth(kind: str) -> None:
    planned = method(kind)
    students = [
        stage
        for stage in below(planned.student(setup()), planned.labels(setup()))
        if isinstance(stage, Finetune | Probe) and stage.train_split == "strong_train"
    ]
    assert students or kind == "prompting"
    for student in students:
        assert not any(isinstance(given, GroundTruth | Evaluate) for given in student.inputs)
        if isinstance(student, Finetune) and student.transcripts is not None:
            assert isinstance(student.transcripts, StatedLabels)


@pytest.mark.parametrize("kind", METHODS)
def test_only_the_truth_that_a_method_declares_reaches_its_student(kind: str) -> None:
    planned = method(kind)
    found = {
        stage.split
        for stage in below(planned.labels(setup()), planned.student(setup()))
        if isinstance(stage, GroundTruth)
    }
    assert found == planned.truth_in_labels


def test_only_these_methods_let_a_student_learn_from_truth_of_its_rows() -> None:
    assert {kind for kind in METHODS if "strong_train" in method(kind).truth_in_labels} == {
        "easy_to_hard",
        "ground_truth_mixing",
        "synthetic_errors",
    }
    assert {kind for kind in METHODS if "val" in method(kind).truth_in_labels} == {
        "adaboost_published",
    }
    assert not any("test" in method(kind).truth_in_labels for kind in METHODS)


@pytest.mark.parametrize("kind", METHODS)
def test_only_students_get_the_loss_and_the_students_recipe(kind: str) -> None:
    here = setup()
    planned = method(kind)
    for stage in below(planned.student(here), planned.labels(here)):
        if isinstance(stage, Finetune) and stage.train_split == "weak_train":
            assert stage.loss.kind == "xent"
            assert stage.train == here.supervisor_train
        elif isinstance(stage, Finetune):
            assert stage.loss == here.loss
            assert stage.train.batch_size == here.student_train.batch_size
    assert finetuned(method("naive").student(here)).train == here.student_train


@pytest.mark.parametrize("kind", METHODS)
def test_the_ceiling_learns_the_truth_of_the_students_rows_with_cross_entropy(kind: str) -> None:
    here = setup()
    ceiling = finetuned(method(kind).ceiling(here))
    assert ceiling.train_split == "strong_train"
    assert ceiling.labels == here.truth("strong_train")
    assert ceiling.loss.kind == "xent"
    assert ceiling.train == here.ceiling_train


def test_only_evaluate_stages_read_the_truth_of_test_and_of_val_unless_a_method_says_so() -> None:
    here = setup()
    for kind in METHODS:
        planned = method(kind)
        for stage in below(
            here.evaluate(planned.student(here), supervisor=planned.supervision(here)),
            *(here.evaluate(arm) for arm in planned.arms(here).values()),
        ):
            held_out = [
                given
                for given in stage.inputs
                if isinstance(given, GroundTruth)
                and given.split in {"val", "test"} - planned.truth_in_labels
            ]
            assert not held_out or isinstance(stage, Evaluate)


@pytest.mark.parametrize("inner", ["debate", "finetune_ensemble"])
@pytest.mark.parametrize("kind", AROUND)
def test_a_method_around_another_keeps_its_supervision_and_changes_its_labels(
    kind: str, inner: str
) -> None:
    here, within = setup(), method(inner)
    around = method(kind, of=inner)
    assert around.supervision(here) == within.supervision(here)
    assert around.members(here) == within.members(here)
    assert around.floor(here) == within.floor(here)
    keys = {stage.key for stage in below(around.student(here))}
    assert within.supervision(here).key in keys
    assert around.student(here).key != method(kind).student(here).key
    assert around.label == f"{kind}({inner})"


@pytest.mark.parametrize("outer", [kind for kind in AROUND if kind not in CHAINS])
def test_a_recipe_within_is_kept_by_what_stands_around_it(outer: str) -> None:
    student = method(outer, of="confident_first").student(setup())
    assert finetuned(student).start is not None


def test_three_methods_stand_around_each_other() -> None:
    chain = {"kind": "bootstrapping", "through": 2, "of": "debate_ensemble"}
    planned = method("confident_selection", of={"kind": "strong_to_strong", "of": chain})
    assert (
        planned.label
        == "confident_selection(strong_to_strong(bootstrapping(debate_ensemble, through=2)))"
    )
    here = setup()
    labels = planned.labels(here)
    assert isinstance(labels, ConfidentSelection)
    assert finetuned(labels.labels).model == here.ladder["m"]
    kinds = [type(stage).__name__ for stage in below(planned.student(here))]
    assert kinds.count("Finetune") == 4 + 2 + 3


def test_a_debate_supervisor_reads_debates_in_training_and_in_labelling() -> None:
    supervision = finetuned(method("debate").supervision(setup()))
    assert isinstance(supervision.transcripts, Debate)
    assert set(supervision.transcripts.splits) == {"weak_train", "strong_train", "val", "test"}
    assert supervision.transcripts.debater == setup().strong


def test_controls_of_the_debate_change_the_debater_or_the_transcripts() -> None:
    weak = finetuned(method("debate", debater="weak").supervision(setup()))
    shuffled = finetuned(method("debate", transcripts="shuffled").supervision(setup()))
    assert isinstance(weak.transcripts, Debate)
    assert weak.transcripts.debater == setup().weak
    assert isinstance(shuffled.transcripts, ShuffledTranscripts)


def test_naive_is_the_supervisor_that_other_methods_assist() -> None:
    assert method("naive").supervision(setup()) == setup().supervisor()
    assert method("shuffled_labels").supervision(setup()) == setup().supervisor()


def test_a_chain_goes_through_rungs_of_rising_size_each_taught_by_the_one_before() -> None:
    here = setup()
    planned = method("bootstrapping", through=2)
    student = finetuned(planned.student(here))
    middle = finetuned(student.labels)
    first = finetuned(middle.labels)
    assert [student.model, middle.model, first.model] == [here.ladder[name] for name in "lms"]
    assert first.labels == here.supervisor()
    assert planned.arms(here) == {"s": first, "m": middle}
    assert planned.student(here) == method("bootstrapping", through=["m", "s"]).student(here)


@pytest.mark.parametrize(("number", "rungs"), [(1, ["d"]), (2, ["c", "e"]), (5, list("bcdef"))])
def test_rungs_are_taken_evenly(number: int, rungs: list[str]) -> None:
    here = setup()
    ladder = {name: pretrained(32 * index) for index, name in enumerate("abcdefg", 1)}
    wide = Setup(**{**vars(here), "ladder": ladder, "weak": ladder["a"], "strong": ladder["g"]})
    assert list(method("bootstrapping", through=number).arms(wide)) == rungs


@pytest.mark.parametrize("through", [3, 0, ["x"], ["s", "l"], []])
def test_a_chain_that_the_pair_has_no_rungs_for_is_refused(through: object) -> None:
    with pytest.raises(UserError, match="the ladder has s, m"):
        method("bootstrapping", through=through).student(setup())
    with pytest.raises(UserError, match="the ladder has none"):
        method("bootstrapping", through=through).student(setup(strong="s"))
    with pytest.raises(UserError, match="the ladder has none"):
        method("bootstrapping", through=through).student(setup(strong="xs"))


def test_iterations_hand_labels_from_strong_to_fresh_strong() -> None:
    here = setup()
    planned = method("strong_to_strong", iterations=2)
    arms = planned.arms(here)
    assert arms["iteration 0"] == method("naive").student(here)
    for number in (1, 2):
        student = finetuned(arms[f"iteration {number}"])
        assert student.labels == arms[f"iteration {number - 1}"]
        assert student.model == here.strong
        assert student.start is None
    assert planned.student(here) == arms["iteration 2"]


def test_generative_finetuning_comes_before_student_and_ceiling_alike() -> None:
    here = setup()
    planned = method("generative_finetuning")
    student, ceiling = finetuned(planned.student(here)), finetuned(planned.ceiling(here))
    assert isinstance(student.model, GenerativeFinetune)
    assert student.model.model == here.strong
    assert student.model.splits == ("strong_train",)
    assert ceiling.model == student.model
    assert student.labels == here.supervisor()
    assert planned.floor(here) == here.supervisor()
    weak_too = method("generative_finetuning", weak_too=True)
    supervisor = finetuned(weak_too.supervision(here))
    assert isinstance(supervisor.model, GenerativeFinetune)
    assert supervisor.model.model == here.weak
    assert weak_too.floor(here) == supervisor


def test_a_chain_within_generative_finetuning_still_finds_its_rungs() -> None:
    here = setup()
    chain = {"kind": "bootstrapping", "through": 2}
    planned = method("generative_finetuning", weak_too=True, of=chain)
    middle = finetuned(finetuned(planned.student(here)).labels)
    assert middle.model == here.ladder["m"]
    outer = method("bootstrapping", through=2, of={"kind": "generative_finetuning"})
    step = finetuned(outer.arms(here)["m"]).model
    assert isinstance(step, GenerativeFinetune)
    assert step.model == here.ladder["m"]


def test_the_curriculum_goes_on_from_the_confident_half_at_half_the_learning_rate() -> None:
    here = setup()
    second = finetuned(method("confident_first").student(here))
    assert second.start is not None
    first = finetuned(second.start)
    assert isinstance(first.labels, ConfidentSelection)
    assert first.labels.share == 0.5
    assert first.save_weights
    assert (first.train.epochs, second.train.epochs) == (2, 3)
    assert second.train.learning_rate == first.train.learning_rate / 2
    assert second.labels == first.labels.labels == here.supervisor()


@pytest.mark.parametrize("kind", ["confident_first", "saliency"])
def test_a_method_that_finetunes_refuses_a_probe(kind: str) -> None:
    with pytest.raises(UserError, match=r"probe_then_finetune"):
        method(kind).student(setup(mode="probe"))


def test_saliency_probes_the_strong_model_before_and_after_it_learnt_weak_labels() -> None:
    here = setup()
    planned = method("saliency")
    student = finetuned(planned.student(here))
    arms = planned.arms(here)
    assert student.save_weights
    assert student.labels == here.supervisor()
    found = {}
    for name, arm in arms.items():
        source = arm.features.source if isinstance(arm, Probe) else finetuned(arm).model
        labels = arm.labels if isinstance(arm, Probe) else finetuned(arm).labels
        found[name] = (type(arm).__name__, source, labels)
    weak, truth = here.supervisor(), here.truth("strong_train")
    assert found == {
        "lp(weak)": ("Probe", here.strong, weak),
        "lp(gt)": ("Probe", here.strong, truth),
        "ft(weak)": ("Finetune", here.strong, weak),
        "ft(weak)+lp(gt)": ("Probe", student, truth),
        "ft(gt)": ("Finetune", here.strong, truth),
    }


def test_errors_by_difficulty_ask_a_strong_model_that_never_saw_the_row() -> None:
    here = setup()
    for errors in ("random", "longest", "hardest", "easiest"):
        labels = method("synthetic_errors", errors=errors).labels(here)
        assert isinstance(labels, SyntheticErrors)
        if errors in ("hardest", "easiest"):
            assert finetuned(labels.reference or labels).model == here.strong
            assert finetuned(labels.reference or labels).train_split == "weak_train"
        else:
            assert labels.reference is None


def test_a_simulable_supervisor_is_its_own_floor() -> None:
    planned = method("simulable_errors")
    assert planned.floor(setup()) == planned.supervision(setup())


def test_stated_labels_are_in_the_students_input_alone() -> None:
    here = setup()
    planned = method("trivial_imitation")
    student = finetuned(planned.student(here))
    assert isinstance(student.transcripts, StatedLabels)
    assert student.transcripts.labels == student.labels == here.supervisor()
    assert finetuned(planned.ceiling(here)).transcripts is None


def test_difficulty_rates_the_rows_that_are_learnt_and_no_others() -> None:
    here = setup()
    planned = method("easy_to_hard", max_difficulty=4, learns="weak")
    labels = planned.labels(here)
    assert isinstance(labels, EasyLabels)
    assert labels.labels == here.supervisor()
    assert [truth.split for truth in labels.difficulty.truths] == ["strong_train"]
    models = [finetuned(stage).model for stage in labels.difficulty.predictions]
    assert models == list(here.ladder.values())
    with pytest.raises(UserError, match="the ladder has 4 rungs; allowed: 0 to 4"):
        method("easy_to_hard", max_difficulty=5).labels(here)


def test_a_budget_of_truth_is_a_share_or_a_number() -> None:
    labels = method("ground_truth_mixing", num_rows=7).labels(setup())
    assert isinstance(labels, MixedLabels)
    assert (labels.share, labels.num_rows) == (None, 7)
    from w2s.methods.ground_truth_mixing import GroundTruthMixing

    with pytest.raises(ValueError, match="give `share` or `num_rows`"):
        GroundTruthMixing(share=None)


def test_labels_of_tables_name_what_is_not_at_its_default() -> None:
    assert method("debate").label == "debate"
    assert method("debate", debater="weak").label == "debate(weak)"
    assert method("debate_ensemble", num_members=8).label == "debate_ensemble(num_members=8)"
    assert method("bootstrapping", through=["s", "m"]).label == "bootstrapping(through=s+m)"
    assert (
        method("generative_finetuning", weak_too=True, train={"epochs": 2}).label
        == "generative_finetuning(weak_too=True, train.epochs=2)"
    )
    assert (
        method("confident_selection", of={"kind": "debate", "debater": "weak"}, share=0.1).label
        == "confident_selection(debate(weak), share=0.1)"
    )


@pytest.mark.parametrize(
    "kind",
    [
        "consultancy",
        "critique",
        "debate",
        "em_posterior",
        "generative_finetuning",
        "interaction",
        "judge",
        "market_making",
        "prompting",
    ],
)
def test_an_encoder_is_refused_where_a_model_has_to_read_on(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    encoder = PretrainedModel(path=str(tmp_path), fingerprint="encoder")
    here = setup()
    here = replace(here, strong=encoder, ladder={**here.ladder, "encoder": encoder})
    with pytest.raises(UserError, match=r"needs a language model \(a decoder\); .* type 'bert'"):
        method(kind).student(here)
