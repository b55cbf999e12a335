"""Diversity against numbers worked by hand."""

import numpy as np
import pytest

from w2s.diversity import disagreement, diversity, q_statistic


def test_disagreement_is_the_mean_over_pairs() -> None:
    predicted = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [2, 1, 1, 0]])
    # 1/4, 3/4, 2/4.
    assert disagreement(predicted) == pytest.approx(0.5)
    assert disagreement(predicted[[0, 0]]) == 0


def test_q_is_one_for_the_same_errors_none_for_independent_ones_minus_one_for_others() -> None:
    first = np.array([True, True, False, False])
    assert q_statistic(np.stack([first, first])) == 1
    assert q_statistic(np.stack([first, ~first])) == -1
    assert q_statistic(np.stack([first, np.array([True, False, True, False])])) == 0
    # Both right 3, both wrong 1, one of them 1 and 1: (3 - 1) / (3 + 1).
    rows = np.array([[1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 1]]).astype(bool)
    assert q_statistic(rows) == pytest.approx(0.5)
    never_wrong = np.ones(4, dtype=bool)
    assert np.isnan(q_statistic(np.stack([first, never_wrong])))
    assert q_statistic(np.stack([first, first, never_wrong])) == 1


def test_ambiguity_is_what_the_ensemble_has_less_loss_than_its_members() -> None:
    members = np.array([[[0.8, 0.2], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.5]]])
    found = diversity(members, members.mean(0), np.array([0, 1]))
    loss = (-np.log(0.8) - np.log(0.2) - 2 * np.log(0.5)) / 4
    assert found.member_loss == pytest.approx(loss)
    assert found.ambiguity == pytest.approx(loss + np.log(0.5))
    assert found.disagreement == 0.5
    alike = diversity(members[[0, 0]], members[0], np.array([0, 1]))
    assert alike.ambiguity == pytest.approx(0)
