"""What a sweep leaves survives the way to disk and back."""

import pandas as pd
import pytest

from sweeps.results import TRIALS_FILE, SweepResults, pooled_curves, pooled_rows
from tests.sweeps import synthetic
from w2s.errors import UserError


def test_results_come_back_from_their_folder_as_they_were(tmp_path):
    results = synthetic.results(num_rows=20)
    results.save(tmp_path / "results")
    loaded = SweepResults.load(tmp_path / "results")
    assert loaded.summary == results.summary
    assert loaded.trials == results.trials
    assert loaded.debates == results.debates
    pd.testing.assert_frame_equal(loaded.rows, results.rows)
    pd.testing.assert_frame_equal(loaded.curves, results.curves)


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


def test_a_sweep_without_curves_or_evaluations_has_empty_frames():
    assert len(pooled_curves([])) == 0
    assert len(pooled_rows([])) == 0


def test_a_trial_lists_a_shared_evaluation_once():
    world = synthetic.World("w", 5, 0)
    trial = world.trial("pairs", "xs", "l", seeds=(0, 1))
    assert len(trial.evaluations) == 6  # floor = supervisor, student, ceiling; two seeds
