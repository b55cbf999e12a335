"""Each rule against numbers worked by hand, and stacking against a second way to its optimum."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from w2s.combiners.accuracy_weighted import AccuracyWeighted, log_odds_of_accuracy
from w2s.combiners.base import HeldOut
from w2s.combiners.geometric_mean import GeometricMean
from w2s.combiners.mean import Mean
from w2s.combiners.product import Product
from w2s.combiners.stacking import Stacking, evidence, fit_stack
from w2s.combiners.vote import Vote
from w2s.combiners.weighted import Weighted
from w2s.errors import UserError

TWO = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
"""Two members, one row."""


def test_mean_geometric_mean_and_product_of_two() -> None:
    assert Mean().combine(TWO)[0] == pytest.approx([0.7, 0.3])
    # sqrt(0.9 * 0.5) : sqrt(0.1 * 0.5) = 3 : 1.
    assert GeometricMean().combine(TWO)[0] == pytest.approx([0.75, 0.25])
    # 0.9 * 0.5 : 0.1 * 0.5 = 9 : 1.
    assert Product().combine(TWO)[0] == pytest.approx([0.9, 0.1])
    assert Product(powers=(0.5, 7.0)).combine(TWO)[0] == pytest.approx([0.75, 0.25])


def test_fixed_weights_are_scaled_to_sum_to_one() -> None:
    assert Weighted(weights=(1.0, 3.0)).combine(TWO)[0] == pytest.approx([0.6, 0.4])
    assert Weighted(weights=(0.25, 0.75)).combine(TWO)[0] == pytest.approx([0.6, 0.4])
    with pytest.raises(ValueError, match="a weight above 0"):
        Weighted(weights=(0.0, 0.0))


def test_a_number_a_member() -> None:
    Product().check_members(7)
    for combiner in (Product(powers=(1.0, 2.0)), Weighted(weights=(1.0, 2.0))):
        combiner.check_members(2)
        with pytest.raises(UserError, match="2 numbers for 3 members"):
            combiner.check_members(3)


def test_votes_count_most_probable_classes_and_ties_are_shared() -> None:
    votes = np.array(
        [
            [[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [0.6, 0.4, 0.0]],
            [[0.5, 0.1, 0.4], [0.1, 0.8, 0.1], [0.4, 0.6, 0.0]],
            [[0.0, 0.1, 0.9], [0.8, 0.1, 0.1], [0.0, 0.0, 1.0]],
            [[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.2, 0.8, 0.0]],
        ]
    )
    np.testing.assert_allclose(
        Vote().combine(votes),
        [[3 / 4, 0, 1 / 4], [2.5 / 4, 1.5 / 4, 0], [1 / 4, 2 / 4, 1 / 4]],
    )
    np.testing.assert_allclose(Vote(hard=True).combine(votes), [[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(Vote(hard=True).combine(votes[[0, 1]])[2], [0.5, 0.5, 0])


def test_log_odds_of_accuracy_with_half_a_row_added_on_either_side() -> None:
    sure = np.array([[0.9, 0.1]] * 9)
    right_8 = sure.copy()
    right_8[0] = [0.1, 0.9]
    right_4 = sure.copy()
    right_4[:5] = [0.1, 0.9]
    labels = np.zeros(9, dtype=np.int64)
    held_out = HeldOut(np.stack([sure, right_8, right_4]), labels)
    weights = log_odds_of_accuracy(held_out.probabilities_MHC, labels)
    # Accuracies 9.5 / 10, 8.5 / 10 and, below chance, 4.5 / 10.
    assert weights == pytest.approx([np.log(19), np.log(17 / 3), 0])
    rows = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
    share = np.log(19) / (np.log(19) + np.log(17 / 3))
    assert AccuracyWeighted().combine(rows, held_out)[0, 0] == pytest.approx(share)


def test_chance_of_three_classes_is_a_third() -> None:
    thirds = np.tile(np.eye(3), (3, 1))[None]
    half_right = np.array([0, 1, 2, 0, 1, 0, 1, 2, 0])
    # 5 of 9 right: log((5.5 / 10) * 2 / (4.5 / 10)).
    assert log_odds_of_accuracy(thirds, half_right) == pytest.approx([np.log(1.1 / 0.45)])


def test_members_at_chance_count_the_same() -> None:
    wrong = HeldOut(np.array([[[0.1, 0.9]] * 4] * 2), np.zeros(4, dtype=np.int64))
    assert AccuracyWeighted().combine(TWO, wrong)[0] == pytest.approx([0.7, 0.3])


def stack(num_rows: int = 400) -> HeldOut:
    """Three members: a good one, a bad one, and one that says nothing."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, num_rows)
    signs = np.where(labels == 1, 1.0, -1.0)
    margins = np.stack(
        [2 * signs + rng.normal(0, 2, num_rows), rng.normal(0, 2, num_rows), signs * 0]
    )
    ones = 1 / (1 + np.exp(-margins))
    return HeldOut(np.stack([1 - ones, ones], axis=2), labels)


def test_stacking_without_a_pull_is_logistic_regression_on_the_members_log_odds() -> None:
    held_out = stack()
    found = fit_stack(evidence(held_out.probabilities_MHC), held_out.labels_H, penalty=1e-6)
    odds = np.log(held_out.probabilities_MHC[:2, :, 1] / held_out.probabilities_MHC[:2, :, 0]).T
    other = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000).fit(odds, held_out.labels_H)
    assert found[:2] == pytest.approx(other.coef_[0], abs=1e-4)
    assert found[4] - found[3] == pytest.approx(other.intercept_[0], abs=1e-4)


def test_stacking_is_at_the_bottom_of_its_objective() -> None:
    held_out, penalty = stack(60), 3.0
    values = evidence(held_out.probabilities_MHC)
    best = fit_stack(values, held_out.labels_H, penalty)
    centre = np.array([1 / 3] * 3 + [0.0] * 2)

    def objective(parameters: np.ndarray) -> float:
        logits = np.einsum("m,mhc->hc", parameters[:3], values) + parameters[3:]
        chosen = logits[np.arange(60), held_out.labels_H]
        xent = (np.logaddexp.reduce(logits, axis=1) - chosen).sum()
        return float(xent + penalty / 2 * ((parameters - centre) ** 2).sum())

    for index in range(5):
        for step in (-1e-3, 1e-3):
            moved = best.copy()
            moved[index] += step
            assert objective(moved) > objective(best)


def test_a_strong_pull_leaves_the_geometric_mean_and_data_outweigh_a_weak_one() -> None:
    held_out = stack(4000)
    rows = held_out.probabilities_MHC[:, :5]
    np.testing.assert_allclose(
        Stacking(penalty=1e9).combine(rows, held_out), GeometricMean().combine(rows), atol=1e-5
    )
    good, bad, _ = fit_stack(evidence(held_out.probabilities_MHC), held_out.labels_H, 1.0)[:3]
    assert good > 0.8
    assert abs(bad) < 0.1
