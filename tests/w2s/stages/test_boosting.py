"""Boosting against numbers worked by hand, and against scikit-learn's AdaBoost."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

from tests.w2s.stages.given import Artifacts
from w2s.stages.boosting import (
    Boosted,
    Residual,
    Reweighted,
    Round,
    published_round,
    summed_logits,
    textbook_round,
    voted,
)
from w2s.stages.predictions import read_predictions, read_targets

WRONG_3_OF_10 = np.array([True] * 3 + [False] * 7)


def test_a_round_of_adaboost_by_hand() -> None:
    weights, result = textbook_round(np.ones(10), WRONG_3_OF_10, 2)
    assert result.error == pytest.approx(0.3)
    assert result.vote == pytest.approx(0.5 * np.log(7 / 3))
    # Wrong rows have half of all weight afterwards, as ever.
    assert weights == pytest.approx([10 / 6] * 3 + [10 / 14] * 7)
    second, again = textbook_round(weights, np.arange(10) >= 8, 2)
    assert again.error == pytest.approx(1 / 7)
    assert again.vote == pytest.approx(0.5 * np.log(6))
    assert second[8:].sum() == pytest.approx(5)
    assert second.sum() == pytest.approx(10)
    # Among rows that were right, weights keep their ratio.
    assert second[0] / second[3] == pytest.approx(14 / 6)


def test_a_round_with_three_classes_has_its_chance_at_two_thirds() -> None:
    weights, result = textbook_round(np.ones(10), np.arange(10) < 6, 3)
    assert result.vote == pytest.approx(0.5 * (np.log(4 / 6) + np.log(2)))
    assert not result.stopped
    assert weights[0] / weights[9] == pytest.approx(np.exp(2 * result.vote))
    assert textbook_round(np.ones(9), np.arange(9) < 6, 3).round.stopped


def test_boosting_stops_at_chance_and_after_a_round_without_error() -> None:
    for num_wrong in (5, 8):
        weights, result = textbook_round(np.ones(10), np.arange(10) < num_wrong, 2)
        assert (result.vote, result.stopped) == (0.0, True)
        assert weights.tolist() == [1.0] * 10
    weights, result = textbook_round(np.ones(10), np.zeros(10, dtype=bool), 2)
    assert (result.error, result.stopped) == (0.0, True)
    assert result.vote == pytest.approx(0.5 * np.log(0.95 / 0.05))
    assert weights.tolist() == [1.0] * 10


def test_rows_without_weight_have_no_part_in_a_round() -> None:
    weights, result = textbook_round(
        np.array([0.0, 0, 1, 1, 1, 1]), np.array([True, True, True, False, False, False]), 2
    )
    assert result.error == pytest.approx(0.25)
    assert weights == pytest.approx([0, 0, 2, 2 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize("num_classes", [2, 3])
def test_rounds_are_those_of_another_implementation(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 4))
    labels = (np.digitize(inputs @ [1, 0.5, -0.7, 0.2], [-0.5, 0.5][: num_classes - 1])).astype(int)
    stump = DecisionTreeClassifier(max_depth=1, random_state=0)
    other = AdaBoostClassifier(stump, n_estimators=6, random_state=0).fit(inputs, labels)
    weights = np.ones(200)
    for number, fitted in enumerate(other.estimators_):
        wrong = fitted.predict(inputs) != labels
        weights, result = textbook_round(weights, wrong, num_classes)
        assert result.error == pytest.approx(other.estimator_errors_[number])
        assert 2 * result.vote == pytest.approx(other.estimator_weights_[number])


def test_a_round_as_published_by_hand() -> None:
    weights, result = published_round(np.ones(4), np.array([True, False, False, True]), 0.25, 40)
    assert weights == pytest.approx([2, 2 / 3, 2 / 3, 2])
    assert result.vote == pytest.approx(np.log(3))
    assert published_round(np.ones(2), np.array([True, False]), 0.75, 40).round.vote < 0
    none = published_round(np.ones(2), np.array([True, False]), 0.0, 40)
    assert none.round.vote == pytest.approx(np.log(79))
    assert none.weights_N == pytest.approx([40, 80 / 158])


def test_votes_average_softmaxes_and_keep_their_order_below_zero() -> None:
    rounds = np.array([[[0.8, 0.2], [0.4, 0.6]], [[0.2, 0.8], [0.1, 0.9]]])
    np.testing.assert_allclose(voted(np.array([3.0, 1.0]), rounds), [[0.65, 0.35], [0.325, 0.675]])
    # 1 - 2 = -1 a row: (0.8 - 0.4, 0.2 - 1.6), raised by 1.4.
    np.testing.assert_allclose(voted(np.array([1.0, -2.0]), rounds)[0], [1, 0])
    np.testing.assert_allclose(voted(np.array([0.0, 0.0]), rounds), rounds[0])
    np.testing.assert_allclose(voted(np.array([1.0, 1.0]), rounds)[0], [0.5, 0.5])


def rows(split: str, ids: str, ones: list[float]) -> list[tuple[str, str, list[float]]]:
    return [(split, row, [1 - p, p]) for row, p in zip(ids, ones, strict=True)]


def read_round(folder: Path) -> Round:
    return Round.model_validate_json((folder / "round.json").read_text())


def test_a_chain_of_rounds_joins_rows_by_id_and_stays_stopped(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    truth = given.truth("weak_train", {"a": 1, "b": 0, "c": 1, "d": 1})
    test = rows("test", "x", [0.9])
    # In another order; only c is wrong.
    first = given.predictions("1", [*rows("weak_train", "dcba", [0.9, 0.2, 0.1, 0.8]), *test])
    one = Reweighted(labels=truth, predictions=first, form="textbook")
    folder = given.run(one)
    frame = pd.read_parquet(folder / "labels.parquet").set_index("row_id")
    assert frame["weight"].to_dict() == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 2, "d": 2 / 3})
    targets = read_targets(folder, "weak_train", ["c", "a"], 2)
    assert targets.weights_N == pytest.approx([2, 2 / 3])
    # Now a, b and d are wrong: half the weight, so no better than chance.
    bad = given.predictions("2", [*rows("weak_train", "abcd", [0.1, 0.9, 0.9, 0.1]), *test])
    two = Reweighted(labels=one, predictions=bad, form="textbook")
    stopped = read_round(given.run(two))
    assert stopped.error == pytest.approx(0.5)
    assert (stopped.vote, stopped.stopped) == (0, True)
    three = Reweighted(labels=two, predictions=first, form="textbook")
    assert read_round(given.run(three)).vote == 0
    boosted = given.run(Boosted(members=(first, bad, first), rounds=(one, two, three)))
    found = read_predictions(boosted).set_index("row_id")
    assert np.exp(found.loc["x", "logprob_1"]) == pytest.approx(0.9)
    notes = json.loads((boosted / "ensemble.json").read_text())
    assert notes["votes"] == pytest.approx([0.5 * np.log(3), 0, 0])
    assert notes["stopped"] == [False, True, True]


def test_the_published_error_is_that_of_val(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    truth = given.truth("weak_train", {"a": 1, "b": 0})
    val = given.truth("val", {"p": 0, "q": 0, "r": 1, "s": 1})
    supervisor = given.predictions(
        "1", [*rows("weak_train", "ab", [0.9, 0.1]), *rows("val", "pqrs", [0.1, 0.9, 0.9, 0.9])]
    )
    stage = Reweighted(labels=truth, predictions=supervisor, form="published", held_out=val)
    folder = given.run(stage)
    assert read_round(folder).error == pytest.approx(0.25)
    assert pd.read_parquet(folder / "labels.parquet")["weight"].tolist() == pytest.approx(
        [2 / 3] * 2
    )


def test_offsets_are_the_sum_of_all_rounds_with_later_ones_shrunk(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    truth = given.truth("weak_train", {"a": 1, "b": 0})
    odds_3 = given.predictions("1", rows("weak_train", "ba", [0.5, 0.75]))
    odds_9 = given.predictions("2", rows("weak_train", "ab", [0.9, 0.1]))
    folder = given.run(Residual(labels=truth, members=(odds_3, odds_9), shrinkage=0.5))
    targets = read_targets(folder, "weak_train", ["a", "b"], 2)
    assert targets.offsets_NC is not None
    odds = targets.offsets_NC[:, 1] - targets.offsets_NC[:, 0]
    # log 3 + log(9) / 2 and 0 - log(9) / 2.
    assert odds == pytest.approx([2 * np.log(3), -np.log(3)], abs=1e-6)
    assert targets.offsets_NC.sum(1) == pytest.approx([0, 0], abs=1e-6)
    assert targets.probabilities_NC.tolist() == [[0, 1], [1, 0]]


def test_rounds_of_a_sum_by_hand() -> None:
    rounds = np.array([[[0.5, 0.5]], [[0.2, 0.8]], [[0.2, 0.8]]])
    (low, high) = summed_logits(rounds, 0.25)[0]
    assert high - low == pytest.approx(0.5 * np.log(4))
