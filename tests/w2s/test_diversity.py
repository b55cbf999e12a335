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


def test_ambiguity_is_what_the_ensemble_has_less_error_than_its_members() -> None:
    members = np.array([[[0.8, 0.2], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.5]]])
    found = diversity(members, members.mean(0), np.array([0, 1]))
    # Brier: 0.08 and 1.28 on the first row, 0.5 for the mean; on the second all have 0.5.
    assert found.ambiguity == pytest.approx(((0.08 + 1.28) / 2 - 0.5) / 2)
    # The same as the squared distances to the mean: twice 0.3 squared a member.
    assert found.ambiguity == pytest.approx(2 * 0.3**2 / 2)
    assert found.disagreement == 0.5
    alike = diversity(members[[0, 0]], members[0], np.array([0, 1]))
    assert alike.ambiguity == pytest.approx(0)
    worse = diversity(members, np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([0, 1]))
    assert worse.ambiguity == pytest.approx(((0.08 + 1.28) / 2 - 2) / 2)
