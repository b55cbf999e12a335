"""Labels in, labels out: selection, budgets of truth, what goes through unchanged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.w2s.stages.given import Artifacts
from w2s.errors import UserError
from w2s.stages.labels import joined, read_labels
from w2s.stages.mixing import MixedLabels, budgeted
from w2s.stages.predictions import read_predictions, read_targets
from w2s.stages.selection import ConfidentSelection, top_share_per_class


@pytest.fixture
def given(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


ROWS = [
    ("val", "v", (0.6, 0.4)),
    ("strong_train", "a", (0.9, 0.1)),
    ("strong_train", "b", (0.45, 0.55)),
    ("test", "t", (0.2, 0.8)),
    ("strong_train", "c", (0.2, 0.8)),
    ("strong_train", "d", (0.7, 0.3)),
]


def test_the_top_share_is_taken_of_each_class_and_rounded_up() -> None:
    scores = np.array([0.9, 0.6, 0.8, 0.7, 0.95])
    classes = np.array([0, 0, 0, 1, 1])
    assert top_share_per_class(scores, classes, 0.5).tolist() == [True, False, True, False, True]
    assert top_share_per_class(scores, classes, 0.3).tolist() == [True, False, False, False, True]
    assert top_share_per_class(scores, classes, 1.0).all()


def test_a_tenth_of_thirty_rows_is_three() -> None:
    kept = top_share_per_class(np.arange(30.0), np.zeros(30, dtype=int), 0.1)
    assert np.flatnonzero(kept).tolist() == [27, 28, 29]


def test_of_equal_scores_the_first_is_kept_and_rows_that_are_out_do_not_count() -> None:
    scores, classes = np.full(4, 0.8), np.zeros(4, dtype=int)
    assert top_share_per_class(scores, classes, 0.5).tolist() == [True, True, False, False]
    allowed = np.array([False, True, False, True])
    kept = top_share_per_class(scores, classes, 0.5, allowed)
    assert kept.tolist() == [False, True, False, False]


def test_labels_above_a_threshold_keep_their_weight(given: Artifacts) -> None:
    labels = given.predictions("weak", ROWS)
    kept = given.labels(ConfidentSelection(labels=labels, by="threshold", threshold=0.75))
    assert dict(zip(kept.row_ids, kept.train_weights_N, strict=True)) == {
        "a": 1.0,
        "b": 0.0,
        "c": 1.0,
        "d": 0.0,
    }


def test_selection_leaves_probabilities_and_the_rows_of_other_splits_as_they_are(
    given: Artifacts,
) -> None:
    labels = given.predictions("weak", ROWS)
    folder = given.run(ConfidentSelection(labels=labels, by="top_share", share=0.5))
    before = read_predictions(given.inputs[labels.key])
    after = read_predictions(folder)
    pd.testing.assert_frame_equal(after.drop(columns="weight"), before)
    assert after.set_index("row_id")["weight"].to_dict() == {
        "v": 1.0,
        "a": 1.0,
        "b": 0.0,
        "t": 1.0,
        "c": 1.0,
        "d": 0.0,
    }


def test_a_selection_of_a_selection_only_drops_more(given: Artifacts) -> None:
    labels = given.predictions("weak", ROWS, weights=[1, 0, 1, 1, 2, 1])
    first = given.labels(ConfidentSelection(labels=labels, by="top_share", share=0.5))
    assert dict(zip(first.row_ids, first.train_weights_N, strict=True)) == {
        "a": 0.0,
        "b": 0.0,
        "c": 2.0,
        "d": 1.0,
    }


def test_a_threshold_that_nothing_reaches_is_refused(given: Artifacts) -> None:
    labels = given.predictions("weak", ROWS)
    with pytest.raises(UserError, match=r"confidence of 0.99 or more; the highest is 0.900"):
        given.run(ConfidentSelection(labels=labels, by="threshold", threshold=0.99))


def test_a_student_drops_rows_of_weight_0(given: Artifacts) -> None:
    labels = given.predictions("weak", ROWS)
    folder = given.run(ConfidentSelection(labels=labels, by="threshold", threshold=0.75))
    targets = read_targets(folder, "strong_train", ["d", "c", "b", "a"], 2)
    assert targets.weights_N.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(targets.probabilities_NC[1], [0.2, 0.8], atol=1e-6)


TRUTH = {"d": 1, "c": 0, "b": 0, "a": 1}


def test_all_truth_is_the_truth_joined_by_id(given: Artifacts) -> None:
    mixed = given.labels(
        MixedLabels(
            labels=given.predictions("weak", ROWS),
            truth=given.truth("strong_train", TRUTH),
            share=1.0,
            seed=0,
        )
    )
    found = dict(zip(mixed.row_ids, mixed.probabilities_NC.argmax(1).tolist(), strict=True))
    assert found == TRUTH
    np.testing.assert_allclose(mixed.probabilities_NC.max(1), 1.0)


def test_a_budget_replaces_that_many_labels_and_weighs_them(given: Artifacts) -> None:
    labels = given.predictions("weak", ROWS)
    mixed = given.labels(
        MixedLabels(
            labels=labels,
            truth=given.truth("strong_train", TRUTH),
            num_rows=2,
            weight=3.0,
            seed=0,
        )
    )
    weak = read_labels(given.inputs[labels.key]).probabilities_NC
    given_truth = mixed.train_weights_N == 3.0
    assert given_truth.sum() == 2
    np.testing.assert_allclose(mixed.probabilities_NC[~given_truth], weak[~given_truth], atol=1e-6)
    truth = np.array([TRUTH[row_id] for row_id in mixed.row_ids])
    assert (mixed.probabilities_NC.argmax(1) == truth)[given_truth].all()


def test_a_larger_budget_holds_the_smaller_one_and_seeds_differ() -> None:
    small, large = budgeted(100, 10, seed=3), budgeted(100, 40, seed=3)
    assert small.sum() == 10
    assert large.sum() == 40
    assert (large >= small).all()
    assert (budgeted(100, 10, seed=4) != small).any()


def test_a_budget_beyond_the_rows_is_refused(given: Artifacts) -> None:
    stage = MixedLabels(
        labels=given.predictions("weak", ROWS),
        truth=given.truth("strong_train", TRUTH),
        num_rows=5,
        seed=0,
    )
    with pytest.raises(UserError, match="budget of 5 true labels, but strong_train has 4 rows"):
        given.run(stage)


def test_a_row_without_its_truth_or_with_two_is_an_error() -> None:
    twice = pd.DataFrame({"row_id": ["a", "a"], "label": [1, 0]})
    with pytest.raises(ValueError, match="ground truth has a row twice: a"):
        joined(twice, ["a"], "ground truth")
    with pytest.raises(ValueError, match="ground truth lacks 1 of 2 rows; first: b"):
        joined(pd.DataFrame({"row_id": ["a"], "label": [1]}), ["a", "b"], "ground truth")
