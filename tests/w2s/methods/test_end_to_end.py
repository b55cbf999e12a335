"""Every method that needs no debate, run for real on a toy task with three small random models."""

import asyncio
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient
from serving.debate.protocols.sequential import Sequential
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_serve_stage, run_stage
from tests.w2s.stages.toy_task import ToyTask, save_model
from w2s.experiment import Experiment
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.models.source import PretrainedModel
from w2s.spec import available, parse
from w2s.stages.base import Stage
from w2s.stages.checkpoints import read_training
from w2s.stages.data import GroundTruth, load
from w2s.stages.evaluate import read_evaluation
from w2s.stages.models import model_key
from w2s.stages.predictions import read_predictions
from w2s.stages.prompt import Prompted
from w2s.stages.recursion import read_generations
from w2s.training.config import GenerativeConfig, ProbeConfig, TrainConfig

FIELDS: dict[str, dict[str, object]] = {
    "bagging": {"num_members": 2},
    "adaboost": {"num_rounds": 3},
    "adaboost_published": {"num_rounds": 2},
    "ensemble": {"of": ["naive"], "num_seeds": 2},
    "finetune_ensemble": {"num_members": 3, "select_size": True, "combine": "stacking"},
    "easy_to_hard": {"max_difficulty": 3, "num_rows": 6},
    "generative_finetuning": {"weak_too": True, "train": GenerativeConfig(batch_size=8)},
    "overlap_density": {"num_neighbors": 5},
    "recursive_aligner": {"num_anchor": 8},
    "saliency": {"probe": ProbeConfig(epochs=3)},
    "synthetic_errors": {"errors": "hardest"},
}
NOT_HERE = {
    "consultancy",
    "critique",
    "debate",
    "debate_ensemble",
    "interaction",
    "judge",
    "market_making",
    "prompting",
    "style_only",
}
KINDS = [kind for kind in available(Method) if kind not in NOT_HERE]
FAST = TrainConfig(epochs=1, batch_size=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PretrainedModel]:
    return {
        name: save_model(tmp_path_factory.mktemp(name), seed=seed)
        for seed, name in enumerate(("xs", "s", "l"))
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(str(tmp_path_factory.mktemp("store")))


def experiment(
    ladder: dict[str, PretrainedModel],
    method: Method,
    *,
    options: bool = False,
    recipe: TrainConfig = FAST,
) -> Experiment:
    return Experiment(
        task=ToyTask(options=options),
        data="",
        weak=ladder["xs"],
        strong=ladder["l"],
        ladder=dict(ladder),
        method=method,
        loss=Xent(),
        supervisor_train=FAST,
        student_train=recipe,
        ceiling_train=FAST,
        protocol=Sequential(),
    )


def run(store: ArtifactStore, root: Stage) -> Path:
    """Run a stage and what it needs; a prompted model answers from a script."""
    if not store.has(root):
        for needed in root.inputs:
            run(store, needed)
        if isinstance(root, Prompted):
            client = BatchingClient(ScriptedTransport(("-",)))
            conditions = Conditions(clients={model_key(root.model): client})
            outcome = asyncio.run(run_serve_stage(root, store, conditions))
        else:
            outcome = run_stage(root, store)
        assert not outcome.cause, outcome.traceback
    return store.local(root)


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_ends_in_scores_of_every_test_row(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel], kind: str
) -> None:
    method = parse(Method, {"kind": kind, **FIELDS.get(kind, {})})
    here = experiment(ladder, method)
    roles = here.roles(0)
    for evaluate in roles.evaluations:
        scores = read_evaluation(run(shared, evaluate))
        assert scores["test"]["num_rows"] == 24
        assert 0 <= scores["test"]["accuracy"] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_handed_to_a_student_has_a_ground_truth_column(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel], kind: str
) -> None:
    method = parse(Method, {"kind": kind, **FIELDS.get(kind, {})})
    student = method.student(experiment(ladder, method).setup(0))
    run(shared, student)
    for needed in student.inputs:
        assert not isinstance(needed, GroundTruth)
        for file in shared.local(needed).rglob("*.parquet"):
            columns = set(pd.read_parquet(file).columns)
            assert not columns & {"label", "correct", "gt_label", "ground_truth"}, file


@pytest.mark.parametrize("kind", KINDS)
def test_labels_cover_the_rows_and_pass_val_and_test_through(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel], kind: str
) -> None:
    method = parse(Method, {"kind": kind, **FIELDS.get(kind, {})})
    here = experiment(ladder, method).setup(0)
    labels = read_predictions(run(shared, method.labels(here)))
    supervision = read_predictions(run(shared, method.supervision(here)))
    for split in ("strong_train", "val", "test"):
        ids = {row.row_id for row in load(here.task).rows[split]}
        assert set(labels.loc[labels["split"] == split, "row_id"]) == ids
    probabilities = np.exp(labels[["logprob_0", "logprob_1"]].to_numpy())
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    if kind not in ("bootstrapping", "shuffled_labels"):
        both = labels.merge(supervision, on=["split", "row_id"])
        both = both[both["split"] != "strong_train"]
        np.testing.assert_allclose(both["logprob_0_x"], both["logprob_0_y"], atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        "confident_first",
        "generative_finetuning",
        "probe_relabel",
        "saliency",
        "simulable_errors",
        "trivial_imitation",
    ],
)
def test_a_choice_among_texts_goes_the_same_way(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel], kind: str
) -> None:
    method = parse(Method, {"kind": kind, **FIELDS.get(kind, {})})
    for evaluate in experiment(ladder, method, options=True).roles(0).evaluations:
        assert read_evaluation(run(shared, evaluate))["test"]["num_rows"] == 24


@pytest.mark.parametrize("mode", ["lora", "probe_then_finetune"])
@pytest.mark.parametrize("kind", ["confident_first", "saliency", "strong_to_strong"])
def test_a_method_that_hands_weights_on_does_so_in_every_mode(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel], kind: str, mode: str
) -> None:
    method = parse(Method, {"kind": kind, **FIELDS.get(kind, {})})
    changes = {"mode": mode, "probe": ProbeConfig(epochs=3), "num_checkpoints": 2}
    recipe = TrainConfig.model_validate({**dict(FAST), **changes})
    for evaluate in experiment(ladder, method, recipe=recipe).roles(0).evaluations:
        assert read_evaluation(run(shared, evaluate))["test"]["num_rows"] == 24


@pytest.mark.parametrize("mode", ["full", "lora", "probe", "probe_then_finetune"])
def test_members_with_learned_weights_teach_in_every_mode(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel], mode: str
) -> None:
    weights = {"kind": "learned", "learning_rate": 0.2, "uniform_epochs": 0}
    method = parse(Method, {"kind": "multi_weak", "weights": weights})
    recipe = TrainConfig.model_validate(
        {**dict(FAST), "mode": mode, "probe": ProbeConfig(epochs=3), "num_checkpoints": 2}
    )
    evaluate = experiment(ladder, method, recipe=recipe).roles(0).student
    found = read_training(run(shared, evaluate))["member_weights"]
    curve = shared.record(evaluate.predictions).curve
    names = [f"member_{number}_weight" for number in range(3)]
    shown = [point.metrics for point in curve if set(names) <= set(point.metrics)]
    assert sum(shown[-1][name] for name in names) == pytest.approx(1)
    assert len(found) == 3
    assert sum(found) == pytest.approx(1)
    assert max(found) - min(found) > 1e-4


@pytest.mark.parametrize("update", ["student", "aligner"])
@pytest.mark.parametrize("mode", ["lora", "probe", "probe_then_finetune"])
def test_an_aligner_learns_rows_of_both_splits_in_every_mode(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel], mode: str, update: str
) -> None:
    fields = {**FIELDS["recursive_aligner"], "num_updates": 1, "update": update}
    method = parse(Method, {"kind": "recursive_aligner", **fields})
    recipe = TrainConfig.model_validate(
        {**dict(FAST), "mode": mode, "probe": ProbeConfig(epochs=3), "num_checkpoints": 2}
    )
    roles = experiment(ladder, method, recipe=recipe).roles(0)
    for evaluate in (roles.student, *roles.arms.values()):
        assert read_evaluation(run(shared, evaluate))["test"]["num_rows"] == 24
    generations = read_generations(run(shared, roles.student))
    assert [each.number for each in generations] == [0, 1]
    (chosen,) = (each.number for each in generations if each.selected)
    student, arm = (
        read_evaluation(run(shared, each))
        for each in (roles.student, roles.arms[f"student {chosen}"])
    )
    assert student["test"] == arm["test"]


def test_a_budget_of_all_the_truth_makes_the_ceiling(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel]
) -> None:
    method = parse(Method, {"kind": "ground_truth_mixing", "share": 1.0})
    here = experiment(ladder, method).setup(0)
    student, ceiling = (
        read_predictions(run(shared, stage)) for stage in (method.student(here), here.ceiling())
    )
    pd.testing.assert_frame_equal(student, ceiling, rtol=1e-4)
