"""What a trial's MLflow run shows, from evaluations written by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from sweeps.book import Entry
from sweeps.events import StageRecord
from sweeps.scores import TrialScorer
from sweeps.store import ArtifactStore
from w2s.experiment import Roles
from w2s.metrics import auroc
from w2s.stages.base import Stage
from w2s.stages.checkpoints import (
    COMPARED_FILE,
    TRAINING_FILE,
    Checkpoint,
    ComparedCheckpoints,
)
from w2s.stages.data import Prompts
from w2s.stages.ensemble import ENSEMBLE_FILE
from w2s.stages.evaluate import EVALUATION_FILE, ROWS_FILE, Evaluate
from w2s.stages.oversight import SUMMARY_FILE, Oversight
from w2s.stages.recursion import GENERATIONS_FILE
from w2s.tasks.almanac import Almanac

LABELS = np.array([0, 1] * 40)


class Model(Stage):
    """Stands for a trained model."""

    tag: str


class Store:
    """Evaluations as `TrialScorer` reads them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def local(self, stage: Stage) -> Path:
        return self.root / stage.key

    def record(self, stage: Stage) -> StageRecord:
        return StageRecord(
            stage.key, "e", "evaluate", identity={}, started=1.0, finished=2.0, host="here"
        )

    def evaluation(self, tag: str, num_right: int, labels: np.ndarray = LABELS) -> Evaluate:
        """An evaluation of which the first rows are right."""
        stage = Evaluate(predictions=Model(tag=tag), truths=(), prompts=Prompts(task=Almanac()))
        right = np.arange(len(labels)) < num_right
        sure = 0.6 + 0.3 * np.arange(len(labels)) / len(labels)
        of_truth = np.where(right, sure, 1 - sure)
        prob_1 = np.where(labels == 1, of_truth, 1 - of_truth)
        folder = self.local(stage)
        folder.mkdir()
        pd.DataFrame(
            {
                "split": "test",
                "row_id": [f"r{i:02d}" for i in range(len(labels))],
                "group": [f"g{i:02d}" for i in range(len(labels))],
                "label": labels,
                "prob_0": 1 - prob_1,
                "prob_1": prob_1,
                "correct": right,
            }
        ).iloc[::-1].to_parquet(folder / ROWS_FILE)
        scores = {
            "accuracy": float(right.mean()),
            "auroc": auroc(prob_1, labels) if len(set(labels)) == 2 else None,
            "balanced_accuracy": 0.5,
            "log_loss": 0.6,
            "brier": 0.4,
            "expected_calibration_error": 0.1,
            "agreement": 0.8,
            "misfit_squared": 0.02,
            "misfit_divergence": 0.03,
        }
        evaluation = dict.fromkeys(("val", "test", "strong_train"), scores)
        (folder / EVALUATION_FILE).write_text(json.dumps(evaluation))
        return stage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def scores_of(store: Store, *seeds: Roles) -> Any:
    entry = Entry(cast(Any, None), dict(enumerate(seeds)), num_seeds=len(seeds))
    return TrialScorer(cast(ArtifactStore, store)).of(entry)


def seed(store: Store, number: int, student: int, **others: Any) -> Roles:
    floor = store.evaluation(f"floor {number}", 48, **others)
    return Roles(
        floor=floor,
        supervisor=floor,
        student=store.evaluation(f"student {number}", student, **others),
        ceiling=store.evaluation(f"ceiling {number}", 76, **others),
    )


def test_a_trial_has_every_metric_and_both_gaps(store: Store) -> None:
    found = scores_of(store, seed(store, 0, 60), seed(store, 1, 64))
    # Accuracies .6, .75 and .8, .95.
    assert found.by_seed["test_accuracy"] == [0.75, 0.8]
    assert found.metrics["pgr"] == pytest.approx((0.775 - 0.6) / (0.95 - 0.6))
    assert found.metrics["pgr_low"] < found.metrics["pgr"] < found.metrics["pgr_high"]
    by_role = {name: found.metrics[name] for name in ("floor_auroc", "ceiling_auroc", "test_auroc")}
    gain = by_role["test_auroc"] - by_role["floor_auroc"]
    gap = by_role["ceiling_auroc"] - by_role["floor_auroc"]
    assert found.metrics["pgr_auroc"] == pytest.approx(gain / gap)
    assert found.metrics["pgr_auroc_low"] < found.metrics["pgr_auroc"]
    for name, value in (
        ("test_balanced_accuracy", 0.5),
        ("test_brier", 0.4),
        ("test_ece", 0.1),
        ("misfit_squared", 0.02),
        ("misfit_divergence", 0.03),
        ("agreement", 0.8),
    ):
        assert found.metrics[name] == pytest.approx(value)
    assert found.notes == {}
    assert "stopped_last" not in found.metrics
    assert "training_flops" not in found.metrics


def test_stopping_and_the_size_of_a_training_are_shown_where_they_were_left(store: Store) -> None:
    roles = [seed(store, 0, 60), seed(store, 1, 64)]
    for number, each in enumerate(roles):
        folder = store.local(each.student)
        run = ComparedCheckpoints(
            curve=tuple(
                Checkpoint(step=step, epoch=1, test_accuracy=accuracy, val_agreement=None)
                for step, accuracy in ((1, 0.7 + 0.1 * number), (2, 0.6))
            ),
            steps={"last": 2, "oracle": 1},
        )
        (folder / COMPARED_FILE).write_text(run.model_dump_json())
        (folder / TRAINING_FILE).write_text(
            json.dumps({"training_flops": 1e9 * (number + 1), "num_parameters": 10})
        )
    found = scores_of(store, *roles)
    assert found.by_seed["stopped_last"] == [0.6, 0.6]
    assert found.metrics["stopped_oracle"] == pytest.approx(0.75)
    assert "stopped_best_val" not in found.metrics
    assert (found.metrics["training_flops"], found.metrics["num_parameters"]) == (1.5e9, 10)
    assert "num_parameters" not in found.by_seed


def test_a_test_set_of_one_class_has_no_auroc(store: Store) -> None:
    found = scores_of(store, seed(store, 0, 60, labels=np.zeros(80, dtype=int)))
    assert found.metrics["pgr"] == pytest.approx(0.15 / 0.35)
    assert not {"pgr_auroc", "test_auroc", "floor_auroc"} & set(found.metrics)


def test_a_gap_within_noise_is_words_in_place_of_a_number(store: Store) -> None:
    floor = store.evaluation("floor", 60)
    roles = Roles(
        floor=floor,
        supervisor=floor,
        student=store.evaluation("student", 61),
        ceiling=store.evaluation("ceiling", 60),
    )
    found = scores_of(store, roles)
    assert found.notes == {"pgr": "gap too small", "pgr_auroc": "gap too small"}
    assert "pgr" not in found.metrics


def test_a_trial_without_a_finished_seed_has_no_scores(store: Store) -> None:
    found = scores_of(store)
    assert (found.metrics, found.by_seed) == ({}, {})


def test_what_transcripts_did_is_the_mean_over_members_of_each_seed(store: Store) -> None:
    def judge(tag: str, **rates: float) -> Oversight:
        model = Model(tag=tag)
        stage = Oversight(
            transcripts=model,
            judged=model,
            unaided=model,
            truths=(),
            prompts=Prompts(task=Almanac()),
        )
        folder = store.local(stage)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY_FILE).write_text(json.dumps({"test": rates}))
        return stage

    first = replace(
        seed(store, 0, 60),
        oversight=(
            judge("a", judge_gain=0.1, win_rate_honest=0.7, invalid_rate=0.5),
            judge("b", judge_gain=0.3, win_rate_honest=0.9, invalid_rate=0.1),
        ),
    )
    second = replace(
        seed(store, 1, 64), oversight=(judge("c", judge_gain=0.4, win_rate_honest=0.6),)
    )
    found = scores_of(store, first, second)
    assert found.by_seed["judge_gain"] == pytest.approx([0.2, 0.4])
    assert found.metrics["win_rate_honest"] == pytest.approx(0.7)
    assert "invalid_rate" not in found.metrics  # not every judge gives verdicts
    assert "judge_gain" not in scores_of(store, seed(store, 2, 60)).metrics


def test_an_ensemble_has_its_diversity_its_size_and_its_out_of_bag_accuracy(store: Store) -> None:
    def ensemble(number: int, out_of_bag: float) -> Roles:
        plain = seed(store, number, 60)
        supervisor = store.evaluation(f"both {number}", 60)
        folder = store.local(supervisor.predictions)
        folder.mkdir()
        notes = {"size": number + 2, "out_of_bag": {"ensemble": out_of_bag}}
        (folder / ENSEMBLE_FILE).write_text(json.dumps(notes))
        members = (
            store.evaluation(f"one {number}", 40),
            store.evaluation(f"two {number}", 60),
        )
        return replace(plain, supervisor=supervisor, members=members)

    found = scores_of(store, ensemble(0, 0.6), ensemble(1, 0.8))
    assert found.metrics["members_accuracy"] == pytest.approx((0.5 + 0.75) / 2)
    # They differ on the 20 of 80 rows that the second alone has right.
    assert found.by_seed["members_disagreement"] == pytest.approx([0.25, 0.25])
    assert found.metrics["members_q_statistic"] == 1
    assert found.metrics["ensemble_ambiguity"] > 0
    assert found.by_seed["ensemble_size"] == [2, 3]
    assert found.metrics["out_of_bag_accuracy"] == pytest.approx(0.7)
    assert "members_accuracy" not in scores_of(store, seed(store, 2, 60)).metrics


def test_learned_weights_of_teachers_and_generations_of_a_recursion_are_shown(store: Store) -> None:
    roles = [seed(store, 0, 60), seed(store, 1, 64)]
    for number, each in enumerate(roles):
        folder = store.local(each.student)
        weights = [0.25 + number / 4, 0.75 - number / 4]
        (folder / TRAINING_FILE).write_text(json.dumps({"member_weights": weights}))
        generations = [
            {"number": 0, "agreement": 0.5, "kept_share": 0.25, "selected": number == 0},
            {"number": 1, "agreement": 0.75, "kept_share": None, "selected": number == 1},
        ]
        (folder / GENERATIONS_FILE).write_text(json.dumps(generations))
    found = scores_of(store, *roles)
    expected = {
        "member_0_weight": [0.25, 0.5],
        "member_1_weight": [0.75, 0.5],
        "generation": [0, 1],
        "generation_0_agreement": [0.5, 0.5],
        "generation_0_kept_share": [0.25, 0.25],
        "generation_1_agreement": [0.75, 0.75],
    }
    assert {name: found.by_seed[name] for name in expected} == expected
    assert "generation_1_kept_share" not in found.by_seed
    plain = scores_of(store, seed(store, 2, 60))
    assert not any(name.startswith(("member", "generation")) for name in plain.by_seed)
