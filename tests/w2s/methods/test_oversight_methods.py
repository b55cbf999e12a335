"""Methods whose supervisors read what models said: their graphs, their labels, what they refuse."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient
from serving.debate.protocols.consultancy import Consultancy
from serving.debate.protocols.sequential import Sequential
from serving.debate.protocols.simultaneous import Simultaneous
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_serve_stage, run_stage
from tests.w2s.stages.toy_task import ToyTask, save_model
from w2s.errors import UserError
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.models.source import PretrainedModel
from w2s.spec import parse
from w2s.stages.base import Stage, closure
from w2s.stages.critique import Critique
from w2s.stages.crossfit import CrossFitted, FoldTruth
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.debate import Debate
from w2s.stages.ensemble import Ensemble
from w2s.stages.finetune import Finetune
from w2s.stages.judge import Judged
from w2s.stages.knowledge import Knowledge, KnowledgeDemos, Questions
from w2s.stages.models import model_key
from w2s.stages.predictions import read_predictions
from w2s.stages.setup import Setup
from w2s.stages.transcripts import ShuffledTranscripts
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import Task, load
from w2s.tasks.boolq import BoolQ
from w2s.tasks.sciq import SciQ
from w2s.training.config import TrainConfig
from w2s.types import SPLITS

FIXTURES = Path(__file__).parents[2] / "fixtures"
TASKS: dict[str, Task] = {
    "almanac": Almanac(),
    "sciq": SciQ(path=str(FIXTURES / "sciq")),
    "boolq": BoolQ(path=str(FIXTURES / "boolq")),
}
METHODS: dict[str, dict] = {
    "debate": {"kind": "debate"},
    "debate in both orders": {"kind": "debate", "orders": "both"},
    "debate with an opponent": {"kind": "debate", "opponent": "m", "debater": "guest"},
    "debate ensemble": {"kind": "debate_ensemble", "num_members": 2, "protocol": "simultaneous"},
    "consultancy": {"kind": "consultancy"},
    "consultancy for both": {"kind": "consultancy", "protocol": {"position": "both"}},
    "market-making": {"kind": "market_making", "num_folds": 3},
    "interaction": {"kind": "interaction"},
    "critique": {"kind": "critique"},
    "judge": {"kind": "judge", "swap": True},
    "judge of consultancy": {"kind": "judge", "reads": "consultancy"},
    "judge of market-making": {"kind": "judge", "reads": "market_making"},
    "judge of knowledge": {"kind": "judge", "reads": "interaction"},
    "judge of critiques": {"kind": "judge", "reads": "critique"},
    "judge of several debates": {
        "kind": "judge",
        "reads": {"kind": "debate_ensemble", "num_members": 3},
    },
    "judge alone": {"kind": "judge", "reads": "naive"},
    "balanced": {"kind": "balanced_classes", "of": {"kind": "judge", "reads": "interaction"}},
}
MODELS = {name: PretrainedModel(path=name, fingerprint=name) for name in ("xs", "m", "l", "guest")}


def setup(seed: int = 0, task: Task = TASKS["almanac"], **fields: object) -> Setup:
    values = {
        "task": task,
        "data": "",
        "weak": MODELS["xs"],
        "strong": MODELS["l"],
        "ladder": {name: MODELS[name] for name in ("xs", "m", "l")},
        "speakers": {"guest": MODELS["guest"]},
        "loss": Xent(),
        "supervisor_train": TrainConfig(),
        "student_train": TrainConfig(),
        "ceiling_train": TrainConfig(),
        "protocol": Sequential(),
        "seed": seed,
    }
    return Setup(**{**values, **fields})  # pyright: ignore[reportArgumentType]


def method(name: str = "", **fields: object) -> Method:
    return parse(Method, fields or METHODS[name])


def context(planned: Method, here: Setup) -> Stage:
    """The one artifact that its supervisor reads."""
    (found,) = planned.contexts(here)
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_plans_and_no_truth_but_that_of_weak_train_is_below_it(
    name: str, task: str
) -> None:
    here, planned = setup(task=TASKS[task]), method(name)
    stages = closure([planned.student(here), planned.supervision(here)]).values()
    truths = {stage.split for stage in stages if isinstance(stage, GroundTruth)}
    assert truths == planned.truth_in_labels <= {"weak_train"}
    below_contexts = closure(planned.contexts(here)).values()
    truths = {stage.split for stage in below_contexts if isinstance(stage, GroundTruth)}
    assert truths == planned.truth_in_contexts
    for stage in stages:
        if isinstance(stage, Debate | Judged | Knowledge | KnowledgeDemos | Critique):
            given = {type(one) for one in stage.inputs}
            assert not given & {GroundTruth, FoldTruth}


@pytest.mark.parametrize("name", METHODS)
def test_what_supervisors_read_are_the_methods_contexts(name: str) -> None:
    here, planned = setup(), method(name)
    contexts = planned.contexts(here)
    supervision = planned.supervision(here)
    supervisors = supervision.members if isinstance(supervision, Ensemble) else (supervision,)
    read = [stage.transcripts for stage in supervisors if isinstance(stage, Finetune | Judged)]
    assert read == (list(contexts) or [None])
    assert len(planned.members(here)) == (len(contexts) if len(contexts) > 1 else 0)


def test_a_debate_is_held_by_the_models_and_the_protocol_that_are_named() -> None:
    here = setup()
    debate = context(
        method(
            kind="debate",
            debater="guest",
            opponent="m",
            judge="l",
            protocol={"kind": "simultaneous", "judge_questions": True},
        ),
        setup(task=TASKS["sciq"]),
    )
    assert isinstance(debate, Debate)
    named = (debate.debater, debate.opponent, debate.judge)
    assert named == (MODELS["guest"], MODELS["m"], MODELS["l"])
    assert debate.protocol == Simultaneous(judge_questions=True)
    plain = context(method(kind="debate"), here)
    assert plain == here.debate(here.strong)


def test_both_orders_are_two_debates_with_a_supervisor_each() -> None:
    here = setup()
    first, second = method("debate in both orders").contexts(here)
    assert isinstance(first, Debate)
    assert isinstance(second, Debate)
    assert [first.protocol.order, second.protocol.order] == ["A_correct", "B_correct"]
    assert first.seed == second.seed


def test_controls_are_made_of_the_debate() -> None:
    shuffled = context(method(kind="debate", transcripts="shuffled", debater="m"), setup())
    assert isinstance(shuffled, ShuffledTranscripts)
    assert isinstance(shuffled.transcripts, Debate)
    assert shuffled.transcripts.debater == MODELS["m"]


def test_a_consultant_speaks_alone_or_for_each_answer() -> None:
    here = setup()
    one, both = (context(method(f"consultancy{end}"), here) for end in ("", " for both"))
    assert isinstance(one, Debate)
    assert isinstance(both, Debate)
    assert (one.protocol, both.protocol) == (Consultancy(), Consultancy(position="both"))
    assert (one.debater, one.opponent) == (MODELS["l"], None)


def test_market_makers_argue_against_picks_of_models_that_did_not_learn_the_row() -> None:
    here = setup()
    debate = context(method("market-making"), here)
    assert isinstance(debate, Debate)
    against = debate.against
    assert isinstance(against, CrossFitted)
    assert against.whole == here.supervisor()
    assert [fold.fold for fold in against.folds] == [0, 1, 2]
    for fold, member in zip(against.folds, against.members, strict=True):
        assert isinstance(member, Finetune)
        assert member.labels == fold
        assert "weak_train" in member.predicts
        assert member.transcripts is None
        assert member.model == here.weak
    # A bag of the supervisor's rows changes who reads, never what is argued.
    bagged = replace(here, supervisor_labels=against.folds[0])
    assert context(method("market-making"), bagged) == debate


def test_writers_of_knowledge_read_questions_and_never_prompts() -> None:
    here = setup(task=TASKS["sciq"])
    knowledge = context(method("interaction"), here)
    assert isinstance(knowledge, Knowledge)
    assert knowledge.model == here.strong
    assert knowledge.demos is not None
    assert knowledge.demos.model == here.weak
    assert not any(isinstance(stage, Prompts) for stage in closure([knowledge]).values())
    assert any(isinstance(stage, Questions) for stage in knowledge.inputs)
    alone = context(method(kind="interaction", num_demos=0), here)
    assert isinstance(alone, Knowledge)
    assert alone.demos is None


def test_the_closed_vocabulary_shows_no_demonstrations() -> None:
    knowledge = context(method("interaction"), setup())
    assert isinstance(knowledge, Knowledge)
    assert knowledge.demos is None
    assert knowledge.served_models == (MODELS["l"],)


def test_a_judge_is_the_weak_base_model_and_shows_turns_as_the_debate_does() -> None:
    here = setup()
    judged = method("judge").supervision(here)
    assert isinstance(judged, Judged)
    assert judged.model == here.weak
    assert judged.swap
    assert judged.transcripts == here.debate(here.strong)
    assert judged.turn_templates == here.task.debate_prompts()
    assert judged.templates == here.task.judge_prompts()
    shuffled = method(kind="judge", reads={"kind": "debate", "transcripts": "shuffled"})
    permuted = method(kind="judge", reads={"kind": "debate", "transcripts": "permuted"})
    for control, templates in ((shuffled, judged.turn_templates), (permuted, None)):
        found = control.supervision(here)
        assert isinstance(found, Judged)
        assert found.turn_templates == templates


def test_several_debates_are_judged_one_by_one_and_averaged() -> None:
    here, planned = setup(seed=1), method("judge of several debates")
    ensemble = planned.supervision(here)
    assert isinstance(ensemble, Ensemble)
    assert ensemble.members == planned.members(here)
    assert ensemble.combine.kind == "mean"
    seeds = [
        one.transcripts.seed
        for one in ensemble.members
        if isinstance(one, Judged)
        if isinstance(one.transcripts, Debate)
    ]
    assert len(set(seeds)) == 3


def test_unaided_a_judge_reads_nothing_and_no_passage_that_was_hidden_from_it() -> None:
    here = setup(task=TASKS["boolq"])
    plain = method("judge").unaided(here)
    assert plain == method("judge alone").supervision(here)
    hidden = {"kind": "debate", "protocol": {"kind": "simultaneous", "hide_passage": True}}
    unaided = method(kind="judge", reads=hidden).unaided(here)
    assert isinstance(unaided, Judged)
    assert (unaided.transcripts, unaided.hide_passage) == (None, True)
    assert method(kind="debate").unaided(here) == here.supervisor()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("debate", {"debater": "xxl"}),
        ("debate", {"opponent": "xxl"}),
        ("debate_ensemble", {"debater": "xxl"}),
        ("style_only", {"debater": "xxl"}),
        ("consultancy", {"consultant": "xxl"}),
        ("market_making", {"debater": "xxl"}),
        ("interaction", {"writer": "xxl"}),
        ("interaction", {"demonstrator": "xxl"}),
        ("critique", {"critic": "xxl"}),
        ("judge", {"judge": "xxl"}),
    ],
)
def test_a_name_that_no_model_has_is_refused(name: str, fields: dict) -> None:
    with pytest.raises(UserError, match=r"no model 'xxl'; models: weak, strong, xs, m, l, guest"):
        method(kind=name, **fields).supervision(setup())


@pytest.mark.parametrize(
    ("fields", "task", "message"),
    [
        ({"kind": "judge", "how": "verdict"}, "almanac", "no words for a written verdict"),
        ({"kind": "judge", "reads": "finetune_ensemble"}, "sciq", "they read the rows alone"),
        ({"kind": "judge", "prompts": {"labels": (" a", " b", " c")}}, "sciq", "3 labels for 2"),
        ({"kind": "debate", "protocol": "market_making"}, "sciq", "this method has no picks"),
        (
            {"kind": "debate", "protocol": {"kind": "consultancy", "open": True}, "orders": "both"},
            "sciq",
            "draws no positions",
        ),
        (
            {"kind": "debate", "protocol": {"kind": "sequential", "judge_questions": True}},
            "almanac",
            "task 'almanac'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_while_planning(fields: dict, task: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(**fields).supervision(setup(task=TASKS[task]))


def test_labels_name_protocols_and_whom_a_name_is_for() -> None:
    sang = {"kind": "simultaneous", "num_rounds": 2, "own_turns": False}
    judge = {"kind": "judge", "rounds": "last", "reads": {"kind": "debate", "protocol": sang}}
    assert (
        method(**judge).label == "judge(debate(simultaneous(num_rounds=2, own_turns=False)), last)"
    )
    assert method(kind="debate", debater="m", protocol="simultaneous").label == (
        "debate(m, simultaneous)"
    )
    assert method(kind="debate", opponent="m").label == "debate(opponent=m)"
    assert method("consultancy for both").label == "consultancy(both)"
    assert method(kind="interaction", demonstrator="m").label == "interaction(demonstrator=m)"
    assert method(kind="judge", judge="m", reads="critique").label == "judge(m, critique)"


FAST = TrainConfig(epochs=1, batch_size=8, learning_rate=1e-2, max_length=64)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PretrainedModel]:
    """Small random models that can be given long prompts."""
    found = {}
    for seed, name in enumerate(("xs", "l")):
        folder = tmp_path_factory.mktemp(name)
        save_model(folder, seed=seed)
        config = json.loads((folder / "config.json").read_text())
        config["max_position_embeddings"] = 4096
        (folder / "config.json").write_text(json.dumps(config))
        found[name] = PretrainedModel(path=str(folder), fingerprint=name)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(str(tmp_path_factory.mktemp("store")))


def run(store: ArtifactStore, root: Stage) -> Path:
    """Run a stage and what it needs, with scripted replies."""
    if not store.has(root):
        for needed in root.inputs:
            run(store, needed)
        if root.lane == "serve":
            script = ("first good reason.", "another reason.", "Answer: correct")
            clients = {
                model_key(model): BatchingClient(ScriptedTransport(script))  # pyright: ignore
                for model in root.served_models
            }
            outcome = asyncio.run(run_serve_stage(root, store, Conditions(clients=clients)))
        else:
            outcome = run_stage(root, store)
        assert not outcome.cause, outcome.traceback
    return store.local(root)


RUN = {
    "judge by verdicts": {"kind": "judge", "how": "verdict", "swap": True},
    **{
        name: METHODS[name]
        for name in METHODS
        if name not in ("debate with an opponent", "balanced")
    },
}


@pytest.mark.parametrize("name", RUN)
def test_labels_cover_every_row_that_a_student_learns_and_is_scored_on(
    store: ArtifactStore, ladder: dict[str, PretrainedModel], name: str
) -> None:
    here = setup(
        task=ToyTask(),
        weak=ladder["xs"],
        strong=ladder["l"],
        ladder=ladder,
        speakers={},
        supervisor_train=FAST,
        student_train=FAST,
    )
    planned = parse(Method, RUN[name])
    frame = read_predictions(run(store, planned.labels(here)))
    for split in SPLITS[1:]:
        ids = {row.row_id for row in load(here.task).rows[split]}
        assert set(frame.loc[frame["split"] == split, "row_id"]) == ids
    probabilities_NC = np.exp(frame[["logprob_0", "logprob_1"]].to_numpy())
    np.testing.assert_allclose(probabilities_NC.sum(1), 1, atol=1e-5)
