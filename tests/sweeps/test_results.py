"""What a sweep leaves survives the way to disk and back."""

from dataclasses import replace

import pandas as pd
import pytest

from sweeps.pooled import (
    difficulties,
    pooled_checkpoints,
    pooled_curves,
    pooled_generations,
    pooled_oversight,
    pooled_rows,
)
from sweeps.results import TRIALS_FILE, SweepResults
from tests.sweeps import synthetic
from w2s.errors import UserError
from w2s.stages.checkpoints import Checkpoint, ComparedCheckpoints
from w2s.stages.recursion import Generation


def test_results_come_back_from_their_folder_as_they_were(tmp_path):
    generations = pooled_generations(
        {
            "k": [
                Generation(number=0, agreement=0.5, kept_share=0.25, selected=False),
                Generation(number=1, agreement=0.75, kept_share=None, selected=True),
            ]
        }
    )
    results = replace(synthetic.results(num_rows=20), generations=generations)
    results.save(tmp_path / "results")
    loaded = SweepResults.load(tmp_path / "results")
    assert loaded.summary == results.summary
    assert loaded.trials == results.trials
    assert loaded.transcripts == results.transcripts
    pd.testing.assert_frame_equal(loaded.rows, results.rows)
    pd.testing.assert_frame_equal(loaded.curves, results.curves)
    pd.testing.assert_frame_equal(loaded.checkpoints, results.checkpoints)
    pd.testing.assert_frame_equal(loaded.difficulty, results.difficulty)
    pd.testing.assert_frame_equal(loaded.oversight, results.oversight)
    pd.testing.assert_frame_equal(loaded.generations, generations)
    assert len(results.checkpoints)
    assert len(results.difficulty) == 40


def test_a_missing_file_is_named(tmp_path):
    synthetic.results(num_rows=5).save(tmp_path)
    (tmp_path / TRIALS_FILE).unlink()
    with pytest.raises(UserError, match=r"no trials\.json; run the sweep again"):
        SweepResults.load(tmp_path)


def test_rows_keep_val_and_test_and_put_classes_in_order():
    frame = pd.DataFrame(
        {
            "split": ["val", "test", "strong_train"],
            "row_id": ["a", "b", "c"],
            "group": ["g", "g", "h"],
            "label": [0, 1, 0],
            **{f"prob_{c}": [0.1, 0.1, 0.1] for c in (10, 2)},
            "predicted": [0, 0, 0],
            "correct": [True, False, True],
            "supervisor_predicted": [1, 1, 1],
        }
    )
    pooled = pooled_rows([("k", frame)])
    assert pooled["row_id"].tolist() == ["a", "b"]
    assert [c for c in pooled.columns if c.startswith("prob")] == ["prob_2", "prob_10"]
    assert "supervisor_predicted" not in pooled.columns


def scored(row_ids: list[str], num_classes: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "split": "test",
            "row_id": row_ids,
            "group": "g",
            "label": 0,
            "predicted": 1,
            "correct": False,
            **{f"prob_{c}": 1 / num_classes for c in range(num_classes)},
        }
    )


def test_rows_of_many_evaluations_share_their_words():
    pooled = pooled_rows([("k", scored(["b", "a"], 2)), ("l", scored(["c", "b"], 3))])
    assert pooled["key"].tolist() == ["k", "k", "l", "l"]
    assert pooled["row_id"].tolist() == ["b", "a", "c", "b"]
    assert pooled["row_id"].cat.categories.tolist() == ["b", "a", "c"]
    assert pooled["prob_2"].isna().tolist() == [True, True, False, False]


def test_checkpoints_are_lines_that_say_who_would_choose_them():
    run = ComparedCheckpoints(
        curve=(
            Checkpoint(step=5, epoch=0.5, test_accuracy=0.75, val_agreement=None),
            Checkpoint(step=10, epoch=1.0, test_accuracy=0.5, val_agreement=0.875),
        ),
        steps={"last": 10, "oracle": 5},
    )
    frame = pooled_checkpoints({"k": run})
    assert frame["step"].tolist() == [5, 10]
    assert frame["last"].tolist() == [False, True]
    assert frame["oracle"].tolist() == [True, False]
    assert frame["best_val"].tolist() == [False, False]
    assert frame["val_agreement"].isna().tolist() == [True, False]


def test_difficulty_is_kept_for_test_rows():
    rated = pd.DataFrame({"split": ["val", "test"], "row_id": ["a", "b"], "difficulty": [0, 2]})
    assert difficulties({"w": rated}).to_numpy().tolist() == [["w", "b", 2]]


def test_a_sweep_without_curves_or_evaluations_has_empty_frames():
    assert len(pooled_curves([])) == 0
    assert len(pooled_rows([])) == 0
    assert len(pooled_checkpoints({})) == len(difficulties({})) == len(pooled_oversight([])) == 0


def test_a_trial_lists_a_shared_evaluation_once():
    world = synthetic.World("w", 5, 0)
    trial = world.trial("pairs", "xs", "l", seeds=(0, 1))
    assert len(trial.evaluations) == 6  # floor = supervisor, student, ceiling; two seeds
    chain = world.trial("methods", "xs", "l", method=synthetic.CHAIN, seeds=(0,))
    assert len(chain.evaluations) == 3 + len(synthetic.ARMS)


def test_oversight_keeps_test_rows_and_names_models():
    frame = pd.DataFrame(
        {
            "split": ["val", "test"],
            "row_id": ["a", "b"],
            "group": "g",
            "label": 1,
            "prob_with": 0.75,
            "prob_without": 0.5,
            "verdict": "",
            "position_a": "correct",
            "position_last": "incorrect",
            "words_correct": 3,
            "words_incorrect": 4,
            "model_correct": "9f3a",
            "model_incorrect": "",
        }
    )
    pooled = pooled_oversight([("k", frame, {"9f3a": "l"}, False), ("c", frame, {}, True)])
    assert pooled["row_id"].tolist() == ["b", "b"]
    assert pooled["model_correct"].tolist() == ["l", "9f3a"]
    assert pooled["model_incorrect"].tolist() == ["", ""]
    assert pooled["control"].tolist() == [False, True]
