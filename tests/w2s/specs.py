"""One instance of every registered spec, and another valid value for each of its fields.

`variants(spec)` yields, for each field, a copy of the spec in which only that field differs. A
field that has no generic other value is named in `OTHER`.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.protocols.sequential import Sequential
from serving.debate.protocols.simultaneous import Simultaneous
from serving.models import Adapter, ServedModel
from w2s.almanac.world import World
from w2s.combiners.base import Combiner
from w2s.combiners.mean import Mean
from w2s.combiners.vote import Vote
from w2s.corpora.base import Corpus
from w2s.experiment import Experiment
from w2s.losses.base import Loss
from w2s.losses.product import Product
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.methods.naive import Naive
from w2s.models.architecture import Architecture
from w2s.models.remote import RemoteModel
from w2s.models.source import PretrainedModel
from w2s.spec import Spec, available, parse
from w2s.stages.balance import BalancedLabels
from w2s.stages.boosting import Boosted, Residual, Reweighted
from w2s.stages.critique import Critique
from w2s.stages.crossfit import CrossFitted, FoldTruth
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.debate import Debate
from w2s.stages.demos import Demonstrations
from w2s.stages.difficulty import Difficulty, EasyLabels
from w2s.stages.ensemble import Ensemble, ShuffledLabels
from w2s.stages.errors import SyntheticErrors
from w2s.stages.evaluate import Evaluate
from w2s.stages.features import Features
from w2s.stages.finetune import Finetune
from w2s.stages.generative import GenerativeFinetune
from w2s.stages.imitation import StatedLabels
from w2s.stages.judge import Judged
from w2s.stages.knowledge import Knowledge, KnowledgeDemos, Questions
from w2s.stages.members import MemberLabels
from w2s.stages.mixing import MixedLabels
from w2s.stages.oversight import Oversight
from w2s.stages.posterior import EMPosterior
from w2s.stages.pretrain import Pretrain
from w2s.stages.probe import Probe
from w2s.stages.prompt import Prompted
from w2s.stages.recursion import AlignerLabels, Anchor, SelectedGeneration
from w2s.stages.relabel import OverlapDensity, ProbeRelabel
from w2s.stages.resample import HeldOutTruth, ResampledTruth
from w2s.stages.selection import ConfidentSelection
from w2s.stages.simulable import SimulableSupervisor
from w2s.stages.style import StyleClassifier
from w2s.stages.tokens import Tokens
from w2s.stages.transcripts import PermutedTranscripts, ShuffledTranscripts
from w2s.tasks._splits import SplitNames
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import PromptTemplate, Task
from w2s.tasks.sciq import SciQ
from w2s.tasks.table import Table
from w2s.templates import CritiquePrompts, JudgePrompts, KnowledgePrompts
from w2s.training.config import GenerativeConfig, LoraConfig, ProbeConfig, TrainConfig
from w2s.weightings.base import Weighting

REQUIRED: dict[tuple[type[BaseModel], str], dict[str, Any]] = {
    (Combiner, "weighted"): {"weights": (1.0, 3.0)},
    (Corpus, "text"): {
        "sources": [{"path": "corpus.parquet", "template": "{text}"}],
        "num_tokens": 1000,
    },
    (Corpus, "almanac"): {"rare_share": 0.5, "custom_share": 0.5},
    (Corpus, "task"): {"num_tokens": 1000},
    (Task, "safety"): {"path": "safety.csv"},
    (Weighting, "fixed"): {"values": (0.25, 0.75)},
    (Task, "table"): {
        "path": "table.csv",
        "prompt": "{text}",
        "label": "mood",
        "classes": ("sad", "glad"),
    },
}
"""Values for fields without a default, by base and kind."""


def registered() -> list[BaseModel]:
    """Every spec that can be named by kind, at its defaults."""
    bases: tuple[type[BaseModel], ...] = (
        Combiner,
        Corpus,
        DebateProtocol,
        Loss,
        Method,
        Task,
        Weighting,
    )
    return [
        parse(base, {"kind": kind, **REQUIRED.get((base, kind), {})})
        for base in bases
        for kind in available(base)
    ]


def stages() -> list[BaseModel]:
    """One stage of every class."""
    task = Almanac()
    prompts = Prompts(task=task)
    truth = GroundTruth(task=task, split="weak_train")
    corpus = parse(Corpus, {"kind": "almanac", **REQUIRED[Corpus, "almanac"]})
    model = Pretrain(architecture=Architecture(hidden_size=32, intermediate_size=64), corpus=corpus)
    tokens = Tokens(model=model, prompts=prompts)
    features = Features(source=model, tokens=tokens)
    tuned = Finetune(
        model=model,
        tokens=tokens,
        labels=truth,
        train_split="weak_train",
        loss=Xent(),
        train=TrainConfig(),
        seed=0,
    )
    own_truth = GroundTruth(task=task, split="strong_train")
    difficulty = Difficulty(predictions=(tuned, tuned), truths=(own_truth,))
    anchor = Anchor(truth=truth, num_rows=8, seed=0)
    update = AlignerLabels(student=tuned, other=tuned, anchor=anchor, by="top_share")
    debate = Debate(
        debater=model, prompts=prompts, templates=DebatePrompts(), protocol=Sequential(), seed=0
    )
    reweighted = Reweighted(labels=truth, predictions=tuned, form="textbook")
    questions = Questions(task=task)
    folds = tuple(
        FoldTruth(truth=truth, prompts=prompts, fold=fold, num_folds=2, seed=0) for fold in (0, 1)
    )
    return [
        questions,
        KnowledgeDemos(model=model, questions=questions, templates=KnowledgePrompts(), seed=0),
        Knowledge(model=model, questions=questions, templates=KnowledgePrompts(), seed=0),
        Critique(model=model, prompts=prompts, templates=CritiquePrompts(), seed=0),
        Judged(model=model, prompts=prompts, transcripts=debate, templates=JudgePrompts()),
        folds[0],
        CrossFitted(whole=tuned, folds=folds, members=(tuned, tuned)),
        BalancedLabels(labels=tuned, seed=0),
        prompts,
        truth,
        model,
        tokens,
        tuned,
        features,
        Probe(
            features=features,
            labels=truth,
            train_split="weak_train",
            loss=Xent(),
            train=ProbeConfig(),
            seed=0,
        ),
        GenerativeFinetune(model=model, tokens=tokens, train=GenerativeConfig(), seed=0),
        Prompted(model=model, prompts=prompts, template=PromptTemplate()),
        debate,
        ShuffledTranscripts(transcripts=debate, seed=0),
        PermutedTranscripts(transcripts=debate, task=task, seed=0),
        Ensemble(members=(tuned, tuned), samples=(truth, truth)),
        ResampledTruth(labels=truth, prompts=prompts, seed=0),
        HeldOutTruth(labels=truth, prompts=prompts, share=0.2, seed=0),
        reweighted,
        Boosted(members=(tuned,), rounds=(reweighted,)),
        Residual(labels=truth, members=(tuned,), shrinkage=0.5),
        ShuffledLabels(labels=tuned, seed=0),
        MemberLabels(members=(tuned, tuned), weights=parse(Weighting, "mean")),
        ConfidentSelection(labels=tuned, by="top_share"),
        anchor,
        update,
        SelectedGeneration(
            aligners=(tuned, tuned), students=(tuned, tuned), updates=(update,), min_gain=0.01
        ),
        MixedLabels(labels=tuned, truth=own_truth, share=0.1, seed=0),
        SyntheticErrors(
            labels=tuned, truth=own_truth, prompts=prompts, errors="random", rate=0.1, seed=0
        ),
        StatedLabels(labels=tuned, prompts=prompts, template="This is {label}."),
        ProbeRelabel(labels=tuned, features=features, probe="knn", action="filter", seed=0),
        OverlapDensity(labels=tuned, features=features, seed=0),
        EMPosterior(labels=tuned, prior=tuned, features=features, seed=0),
        SimulableSupervisor(features=features, labels=truth, num_features=10, seed=0),
        difficulty,
        EasyLabels(labels=tuned, difficulty=difficulty, max_difficulty=0, seed=0),
        StyleClassifier(transcripts=debate, task=task, labels=truth, features="words"),
        Evaluate(predictions=tuned, truths=(truth,), prompts=prompts),
        Oversight(
            transcripts=debate, judged=tuned, unaided=tuned, truths=(truth,), prompts=prompts
        ),
    ]


def plain() -> list[BaseModel]:
    """The specs that are fields of others and have no kind."""
    task = Almanac()
    model = PretrainedModel(path="somewhere")
    experiment = Experiment(
        task=task,
        data="",
        weak=model,
        strong=model,
        ladder={"xs": model},
        method=Naive(),
        loss=Xent(),
        supervisor_train=TrainConfig(),
        student_train=TrainConfig(),
        ceiling_train=TrainConfig(),
        protocol=Sequential(),
    )
    return [
        Table(path="table.csv", prompt="{text} {choice}", choices="options", answer="key"),
        SplitNames(),
        World(),
        Architecture(hidden_size=32, intermediate_size=64),
        TrainConfig(num_checkpoints=4),
        LoraConfig(),
        ProbeConfig(num_checkpoints=4),
        GenerativeConfig(),
        DebatePrompts(),
        JudgePrompts(),
        KnowledgePrompts(),
        CritiquePrompts(),
        PromptTemplate(),
        Demonstrations(
            labels=GroundTruth(task=task, split="strong_train"), number=5, selection="nearest"
        ),
        ServedModel(name="m", path="somewhere"),
        model,
        RemoteModel(name="gpt", model="gpt-4o"),
        experiment,
    ]


OTHER: dict[tuple[str, str], Any] = {
    ("Product", "powers"): (1.0, 2.0),
    ("Bagging", "layers"): (1, 2),
    ("Ensemble", "size_by"): GroundTruth(task=Almanac(), split="val"),
    ("Reweighted", "held_out"): GroundTruth(task=Almanac(), split="val"),
    ("TrainConfig", "head_layer"): 2,
    ("FamilyEnsemble", "models"): ("weak", "strong"),
    ("ServedModel", "adapters"): (Adapter(name="a", path="somewhere"),),
    ("TrainConfig", "betas"): (0.8, 0.99),
    ("TrainConfig", "label_words"): ("no", "yes"),
    ("LoraConfig", "target_modules"): ("q_proj",),
    ("Finetune", "predicts"): ("weak_train", "strong_train", "val", "test"),
    ("Probe", "predicts"): ("weak_train", "strong_train", "val", "test"),
    ("GenerativeFinetune", "splits"): ("weak_train", "strong_train"),
    ("Experiment", "ladder"): {"other": PretrainedModel(path="somewhere")},
    ("Experiment", "speakers"): {"gpt": RemoteModel(name="gpt", model="gpt-4o")},
    ("DebatePrompts", "first"): "{question} other",
    ("DebatePrompts", "reply"): "{question} {transcript} other",
    ("DebatePrompts", "later"): "{question} {transcript} other",
    ("DebatePrompts", "turn_template"): "{text} other",
    ("DebatePrompts", "max_tokens"): (7,),
    ("DebatePrompts", "stop"): ("other",),
    ("Evaluate", "truths"): (GroundTruth(task=Almanac(), split="val"),),
    ("Oversight", "truths"): (GroundTruth(task=Almanac(), split="val"),),
    ("Debate", "splits"): ("test",),
    **{(name, "protocol"): Simultaneous() for name in ("Debate", "DebateEnsemble")},
    ("Judge", "reads"): Naive(),
    ("Judged", "splits"): ("test",),
    ("Knowledge", "splits"): ("test",),
    ("Knowledge", "demos"): KnowledgeDemos(
        model=PretrainedModel(path="somewhere"),
        questions=Questions(task=Almanac()),
        templates=KnowledgePrompts(),
        seed=0,
    ),
    ("Critique", "splits"): ("test",),
    ("JudgePrompts", "labels"): (" no", " yes"),
    ("JudgePrompts", "verdict"): "It is (A|B)",
    **{(kind, "ask"): "{row} other" for kind in ("KnowledgePrompts", "CritiquePrompts")},
    **{(kind, "shown"): "{text} other" for kind in ("KnowledgePrompts", "CritiquePrompts")},
    **{(kind, "stop"): ("other",) for kind in ("KnowledgePrompts", "CritiquePrompts")},
    ("Prompted", "demos"): Demonstrations(
        labels=GroundTruth(task=Almanac(), split="strong_train"), number=5
    ),
    ("Prompted", "splits"): ("test",),
    ("PromptTemplate", "question"): "{prompt} other",
    ("PromptTemplate", "labels"): (" no", " yes"),
    ("TextCorpus", "held_out"): ({"path": "tests.parquet", "template": "{text}"},),
    ("TaskCorpus", "tasks"): (SciQ(),),
    ("Legal", "subset"): "unfair_tos",
    ("SplitNames", "train"): ("other",),
    ("SplitNames", "val"): ("other",),
    ("SplitNames", "test"): ("other",),
    ("Table", "prompt"): "{text} other {choice}",
    ("Table", "classes"): ("glad", "sad"),
}
"""Another value for fields that the generic rules cannot vary."""

EITHER_OR = {("Table", name) for name in ("label", "classes", "choices", "answer")}
"""Fields that are set in one form of a spec only; both forms are among the specs."""


def other(spec: BaseModel, name: str) -> Any:
    """A value for a field that differs from the one it has."""
    if (type(spec).__name__, name) in OTHER:
        return OTHER[type(spec).__name__, name]
    value = getattr(spec, name)
    annotation = type(spec).model_fields[name].annotation
    literals = _literals(annotation)
    if len(literals) > 1:
        return next(literal for literal in literals if literal != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 if value else 0.25
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, Combiner):
        return Vote() if not isinstance(value, Vote) else Mean()
    if isinstance(value, Loss):
        return Product() if not isinstance(value, Product) else Xent()
    if isinstance(value, Task):
        return SciQ()
    if isinstance(value, Method):
        return parse(Method, "debate")
    if isinstance(value, Weighting):
        return parse(Weighting, "dynamic")
    if isinstance(value, BaseModel):
        return next(variant for _, variant in variants(value))
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return (*value[:-1], next(variant for _, variant in variants(value[-1])))
    if isinstance(value, tuple) and value and isinstance(value[0], int | float):
        return tuple(item / 2 if isinstance(item, float) else item + 1 for item in value)
    if value is None:
        return _instead_of_none(annotation)
    raise TypeError(f"no other value known for {type(spec).__name__}.{name} = {value!r}")


def identity_fields(spec: BaseModel) -> list[str]:
    """Fields that are hashed."""
    return list(spec.identity_fields() if isinstance(spec, Spec) else type(spec).model_fields)


def variants(spec: BaseModel) -> Iterator[tuple[str, BaseModel]]:
    """(field, copy with only that field changed) for every field but a fixed `kind`."""
    for name, field in type(spec).model_fields.items():
        if len(_literals(field.annotation)) == 1 or name not in identity_fields(spec):
            continue
        if (type(spec).__name__, name) in EITHER_OR and getattr(spec, name) is None:
            continue
        yield name, spec.model_copy(update={name: other(spec, name)})


def _literals(annotation: Any) -> tuple[Any, ...]:
    arguments = getattr(annotation, "__args__", ())
    return (
        arguments if arguments and all(isinstance(a, str | int | bool) for a in arguments) else ()
    )


def _instead_of_none(annotation: Any) -> Any:
    for argument in getattr(annotation, "__args__", ()):
        bare = getattr(argument, "__origin__", argument)
        if bare is float:
            return 0.5
        if bare is int:
            return 7
        if bare is str:
            return "x"
        if isinstance(bare, type) and issubclass(bare, BaseModel):
            return GroundTruth(task=Almanac(), split="val") if bare.__name__ == "Stage" else bare()
        if _literals(argument):
            return _literals(argument)[0]
    raise TypeError(f"no value known for {annotation}")
