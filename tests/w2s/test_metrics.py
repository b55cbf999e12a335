"""Metrics against hand-worked numbers and second formulations."""

import math

import numpy as np
import pytest

from w2s.metrics import (
    accuracy,
    agreement,
    auroc,
    balanced_accuracy,
    brier,
    cohens_kappa,
    expected_calibration_error,
    log_loss,
    misfit,
    performance_gap_recovered,
    reliability,
)


def two_class(p1: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(p1), np.array(p1)], 1)


def test_accuracy_counts_the_top_class() -> None:
    assert accuracy(two_class([0.9, 0.2, 0.6, 0.4]), np.array([1, 0, 0, 1])) == 0.5


def test_undecided_rows_count_as_class_zero() -> None:
    assert accuracy(two_class([0.5, 0.5]), np.array([0, 1])) == 0.5


def test_balanced_accuracy_weighs_classes_alike() -> None:
    # Class 0: 3 of 3; class 1: 0 of 1.
    assert balanced_accuracy(two_class([0.1, 0.1, 0.1, 0.1]), np.array([0, 0, 0, 1])) == 0.5


def test_auroc_equals_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 40) / 5
    labels = rng.integers(0, 2, 40)
    positive, negative = scores[labels == 1], scores[labels == 0]
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    assert auroc(scores, labels) == pytest.approx(pairs.mean())


def test_auroc_of_ties_is_one_half() -> None:
    assert auroc(np.ones(4), np.array([0, 1, 0, 1])) == 0.5
    assert auroc(np.array([0.1, 0.9]), np.array([0, 1])) == 1.0


def test_auroc_without_a_class_is_nan() -> None:
    assert math.isnan(auroc(np.array([0.3, 0.4]), np.array([1, 1])))


def test_calibration_error_equals_a_hand_worked_number() -> None:
    # Confidences .9 (right), .9 (wrong), .6 (right): |.9 - .5| * 2/3 + |.6 - 1| * 1/3.
    value = expected_calibration_error(two_class([0.9, 0.9, 0.4]), np.array([1, 0, 0]))
    assert value == pytest.approx(0.4 * 2 / 3 + 0.4 / 3)


def test_certain_and_right_is_calibrated() -> None:
    assert expected_calibration_error(two_class([1.0, 0.0]), np.array([1, 0])) == 0


def test_brier_equals_a_hand_worked_number() -> None:
    assert brier(two_class([0.7]), np.array([1])) == pytest.approx(0.09 + 0.09)


def test_log_loss_takes_logprobs_as_they_are() -> None:
    logprobs = np.array([[-1000.0, 0.0], [math.log(0.25), math.log(0.75)]])
    assert log_loss(logprobs, np.array([0, 1])) == pytest.approx((1000 - math.log(0.75)) / 2)


def test_pgr_is_the_recovered_share() -> None:
    # Lang et al. 2025, table 2, SciQ: 91.5 between 90.0 and 93.4.
    assert performance_gap_recovered(90.0, 91.5, 93.4) == pytest.approx(0.441, abs=5e-4)
    assert performance_gap_recovered(0.6, 0.55, 0.8) == pytest.approx(-0.25)
    assert performance_gap_recovered(0.6, 0.85, 0.8) == pytest.approx(1.25)


@pytest.mark.parametrize("ceiling", [0.854, 0.54])
def test_pgr_is_not_shown_without_a_gap(ceiling: float) -> None:
    # A ceiling below the supervisor would print +.28 for a student that is worse than its teacher.
    assert performance_gap_recovered(0.854, 0.766, ceiling) is None


def test_pgr_is_not_shown_within_noise() -> None:
    assert performance_gap_recovered(0.70, 0.71, 0.72, noise=0.03) is None


def test_agreement_splits_by_the_supervisor() -> None:
    student = two_class([0.9, 0.9, 0.1, 0.1])
    supervisor = two_class([0.8, 0.2, 0.2, 0.8])
    found = agreement(student, supervisor, np.array([1, 1, 0, 0]))
    # The supervisor is right on rows 0 and 2; the student repeats both, and neither error.
    assert found == (0.5, 1.0, 0.0)


def test_agreement_with_a_faultless_supervisor_has_no_errors_to_repeat() -> None:
    probabilities = two_class([0.9, 0.1])
    assert math.isnan(agreement(probabilities, probabilities, np.array([1, 0])).supervisor_wrong)


def test_misfit_equals_hand_worked_numbers() -> None:
    student, supervisor = two_class([0.5, 0.9]), two_class([0.8, 0.9])
    found = misfit(student, supervisor)
    # Row 0: (.5 - .8)^2 in both classes; row 1 agrees.
    assert found.squared == pytest.approx((2 * 0.09 + 0) / 2)
    kl = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert found.divergence == pytest.approx(kl / 2)


def test_a_student_that_rules_out_what_its_supervisor_says_has_a_finite_misfit() -> None:
    found = misfit(two_class([0.0]), two_class([1.0]))
    assert found.squared == 2
    assert found.divergence == pytest.approx(math.log(1e12))


def test_misfit_is_the_gain_where_the_student_is_the_nearest_of_a_convex_class() -> None:
    # Truth lies in the class (vectors equal on both rows), the supervisor outside; the student is
    # its projection, so errors and misfit form a right angle (Charikar et al. 2024, theorem 1).
    truth, supervisor = two_class([0.6, 0.6]), two_class([0.3, 0.7])
    student = two_class([0.5, 0.5])
    gain = misfit(truth, supervisor).squared - misfit(truth, student).squared
    assert gain == pytest.approx(misfit(student, supervisor).squared)


def test_kappa_is_agreement_beyond_chance():
    # Observed 3/4; chance 3/4 * 2/4 + 1/4 * 2/4 = 1/2.
    assert cohens_kappa([1, 1, 1, 0], [1, 1, 0, 0]) == pytest.approx(0.5)
    assert cohens_kappa([1, 0], [0, 1]) == pytest.approx(-1)
    assert math.isnan(cohens_kappa([1, 1], [1, 1]))
    assert math.isnan(cohens_kappa([], []))


def test_reliability_is_accuracy_by_confidence_in_the_bins_of_the_calibration_error():
    probabilities_NC = np.array([[0.45, 0.55], [0.4, 0.6], [0.95, 0.05], [0.05, 0.95]])
    found = reliability(probabilities_NC, np.array([1, 0, 0, 1]))
    assert [(each.accuracy, each.num_rows) for each in found] == [(0.5, 2), (1.0, 2)]
    assert [each.confidence for each in found] == pytest.approx([0.575, 0.95])
    gap = sum(each.num_rows / 4 * abs(each.confidence - each.accuracy) for each in found)
    assert gap == pytest.approx(
        expected_calibration_error(probabilities_NC, np.array([1, 0, 0, 1]))
    )
