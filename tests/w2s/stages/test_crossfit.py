"""Cross-fitted predictions: folds of whole groups, and no row judged by a model that learnt it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.w2s.stages.given import PROMPTS, TASK, Artifacts, Given
from w2s.errors import UserError
from w2s.stages.crossfit import CrossFitted, FoldTruth, folds_of
from w2s.stages.data import PROMPTS_FILE, GroundTruth, read_truth
from w2s.stages.predictions import read_predictions, write_predictions

ROWS = {f"r{i}": i % 2 for i in range(12)}
GROUPS = {row_id: f"g{int(row_id[1:]) // 3}" for row_id in ROWS}
TRUTH = GroundTruth(task=TASK, split="weak_train")


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Twelve rows of `weak_train` in four groups, and their truth, in another order."""
    found = Artifacts(tmp_path)
    frame = pd.DataFrame(
        {
            "split": "weak_train",
            "row_id": list(ROWS),
            "group": list(GROUPS.values()),
            "prompt": "text",
        }
    )
    frame.to_parquet(found.place(PROMPTS) / PROMPTS_FILE)
    found.truth("weak_train", dict(reversed(ROWS.items())))
    return found


def fold_truth(fold: int, num_folds: int = 2) -> FoldTruth:
    return FoldTruth(truth=TRUTH, prompts=PROMPTS, fold=fold, num_folds=num_folds, seed=3)


def test_folds_are_whole_groups_of_equal_number_and_follow_the_seed() -> None:
    groups = np.array([f"g{i // 2}" for i in range(20)])
    folds = folds_of(groups, 3, 0)
    by_group = {group: set(folds[groups == group]) for group in set(groups)}
    assert all(len(found) == 1 for found in by_group.values())
    counts = np.bincount([found.pop() for found in by_group.values()])
    assert sorted(counts) == [3, 3, 4]
    assert (folds == folds_of(groups, 3, 0)).all()
    assert (folds != folds_of(groups, 3, 1)).any()


def test_a_fold_leaves_its_groups_out_and_all_folds_together_every_row_once(
    artifacts: Artifacts,
) -> None:
    left_out: list[str] = []
    for fold in (0, 1):
        truth = read_truth(artifacts.run(fold_truth(fold)))
        assert dict(zip(truth["row_id"], truth["label"], strict=True)) == ROWS
        assert set(truth["weight"]) == {0.0, 1.0}
        own = truth.loc[truth["weight"] == 0, "row_id"].tolist()
        assert len({GROUPS[row_id] for row_id in own}) == 2
        left_out += own
    assert sorted(left_out) == sorted(ROWS)


def test_more_folds_than_groups_are_refused(artifacts: Artifacts) -> None:
    with pytest.raises(UserError, match=r"5 folds of weak_train, which has 4 group"):
        artifacts.run(fold_truth(0, num_folds=5))
    with pytest.raises(ValueError, match="counted from 0"):
        fold_truth(2)


def memorising(artifacts: Artifacts, tag: str, truth: pd.DataFrame) -> Given:
    """Predictions of a model that knows what it learnt by heart, and of the rest nothing."""
    stage = Given(tag=tag)
    sure = np.where(truth["label"] == 1, 0.99, 0.01)
    yes = np.where(truth["weight"] > 0, sure, 0.4)
    write_predictions(
        artifacts.place(stage),
        ["weak_train"] * len(truth),
        truth["row_id"].tolist(),
        np.log(np.stack([1 - yes, yes], 1)),
    )
    return stage


def test_what_a_model_knows_by_heart_is_not_in_cross_fitted_predictions(
    artifacts: Artifacts,
) -> None:
    folds = (fold_truth(0), fold_truth(1))
    members = tuple(
        memorising(artifacts, f"fold {fold.fold}", read_truth(artifacts.run(fold)))
        for fold in folds
    )
    whole = artifacts.predictions(
        "whole",
        [
            *((split, f"{split}-row", (0.2, 0.8)) for split in ("strong_train", "val", "test")),
            # Were these taken, the side that is argued for would tell the label.
            *(
                ("weak_train", row_id, (1 - label * 0.9 - 0.05, label * 0.9 + 0.05))
                for row_id, label in ROWS.items()
            ),
        ],
    )
    folder = artifacts.run(CrossFitted(whole=whole, folds=folds, members=members))
    frame = read_predictions(folder)
    own = frame.loc[frame["split"] == "weak_train"]
    assert sorted(own["row_id"]) == sorted(ROWS)
    np.testing.assert_allclose(np.exp(own["logprob_1"]), 0.4, rtol=1e-5)
    others = frame.loc[frame["split"] != "weak_train"]
    assert others["row_id"].tolist() == ["strong_train-row", "val-row", "test-row"]
    np.testing.assert_allclose(np.exp(others["logprob_1"]), 0.8, rtol=1e-5)


def test_members_and_folds_belong_together() -> None:
    folds, one = (fold_truth(0), fold_truth(1)), Given(tag="one")
    with pytest.raises(ValueError, match="1 members for 2 folds"):
        CrossFitted(whole=one, folds=folds, members=(one,))
    with pytest.raises(ValueError, match="all of one cut, in order"):
        CrossFitted(whole=one, folds=folds[::-1], members=(one, one))
