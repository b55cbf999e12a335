"""Scores of predictions: pure numpy, natural logarithms, no thresholds tuned on anything.

N rows, C classes. Predictions are class log-probabilities or probabilities [N, C] as said at each
function; labels are integers [N].
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
SMALLEST_PROBABILITY = 1e-12
"""Probabilities below count as this where their logarithm is taken."""


def correctness(probabilities_NC: Floats, labels_N: Integers) -> Floats:
    """1.0 where the most probable class (the first of equals) is the label, else 0.0: [N]."""
    return (np.argmax(probabilities_NC, axis=1) == labels_N).astype(np.float64)


def accuracy(probabilities_NC: Floats, labels_N: Integers) -> float:
    """Share of rows whose most probable class is the label; NaN without rows."""
    return _mean(correctness(probabilities_NC, labels_N))


def balanced_accuracy(probabilities_NC: Floats, labels_N: Integers) -> float:
    """Mean over the classes that occur of the accuracy on their rows."""
    right_N = correctness(probabilities_NC, labels_N)
    return _mean(np.array([right_N[labels_N == c].mean() for c in np.unique(labels_N)]))


def auroc(scores_N: Floats, labels_N: Integers) -> float:
    """Chance that a row of class 1 scores above one of class 0, ties counting one half.

    NaN if a class is missing.
    """
    positive_N = np.asarray(labels_N) == 1
    num_positive = int(positive_N.sum())
    num_negative = len(positive_N) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    _, place_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[place_N][positive_N].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def expected_calibration_error(
    probabilities_NC: Floats, labels_N: Integers, num_bins: int = 10
) -> float:
    """Mean over rows of |confidence - accuracy| of their bin (Guo et al. 2017, equation 3).

    Bins are of equal width over the top class's probability; an edge belongs to the bin below it.
    """
    confidence_N = np.max(probabilities_NC, axis=1)
    right_N = correctness(probabilities_NC, labels_N)
    bin_N = _confidence_bins(confidence_N, num_bins)
    difference = np.bincount(bin_N, weights=confidence_N - right_N, minlength=num_bins)
    return float(np.abs(difference).sum() / len(right_N)) if len(right_N) else float("nan")


def brier(probabilities_NC: Floats, labels_N: Integers) -> float:
    """Mean over rows of the squared distance to the one-hot label: 0 to 2."""
    one_hot_NC = np.eye(probabilities_NC.shape[1])[labels_N]
    return _mean(squared_distances(probabilities_NC, one_hot_NC))


def log_loss(logprobs_NC: Floats, labels_N: Integers) -> float:
    """Mean over rows of -log P(label), in nats."""
    return _mean(-np.asarray(logprobs_NC)[np.arange(len(labels_N)), labels_N])


def performance_gap_recovered(
    weak: float, student: float, ceiling: float, *, noise: float = 0.0
) -> float | None:
    """PGR (Burns et al. 2023, section 3): (student - weak) / (ceiling - weak).

    Unbounded both ways: below 0 the student is worse than its supervisor, above 1 better than the
    ceiling.

    Args:
        weak: score of the weak supervisor.
        student: score of the strong student.
        ceiling: score of the strong ceiling.
        noise: largest gap that is not told from 0.

    Returns:
        None when ceiling - weak is at most `noise`: the gap is too small, the ratio says nothing.
    """
    gap = ceiling - weak
    return None if gap <= noise else (student - weak) / gap


class Agreement(NamedTuple):
    """Shares of rows on which student and supervisor predict the same class; NaN without rows."""

    overall: float
    """Of all rows."""
    supervisor_right: float
    """Of the rows on which the supervisor is right."""
    supervisor_wrong: float
    """Of the rows on which the supervisor is wrong: its errors that the student repeats."""


def agreement(student_NC: Floats, supervisor_NC: Floats, labels_N: Integers) -> Agreement:
    """Agreement of student and weak supervisor, from probabilities or log-probabilities.

    Burns et al. 2023, sections 5.1.2 and 5.1.3.
    """
    same_N = correctness(student_NC, np.argmax(supervisor_NC, axis=1))
    right_N = correctness(supervisor_NC, labels_N) == 1
    return Agreement(_mean(same_N), _mean(same_N[right_N]), _mean(same_N[~right_N]))


def squared_distances(first_NC: Floats, second_NC: Floats) -> Floats:
    """Squared distance of two probability vectors a row, summed over classes: [N], 0 to 2."""
    return ((np.asarray(first_NC) - second_NC) ** 2).sum(1)


def divergences(first_NC: Floats, second_NC: Floats) -> Floats:
    """KL(first || second) of two probability vectors a row, in nats: [N]."""
    first_NC = np.asarray(first_NC, dtype=np.float64)
    logs_NC = np.log(np.maximum(first_NC, SMALLEST_PROBABILITY))
    logs_NC -= np.log(np.maximum(second_NC, SMALLEST_PROBABILITY))
    return (first_NC * logs_NC).sum(1)


class Misfit(NamedTuple):
    """How far a student is from its supervisor's probabilities; NaN without rows."""

    squared: float
    """Mean squared distance, summed over classes: on the scale of the Brier score."""
    divergence: float
    """Mean KL(supervisor || student), in nats."""


def misfit(student_NC: Floats, supervisor_NC: Floats) -> Misfit:
    """Misfit of a student to its weak supervisor, from probabilities.

    Charikar et al. 2024 (theorem 1): for a convex class of students and realizable truth, the
    squared error of the student is below that of its supervisor by at least the squared misfit.
    Mulgund and Pabbaraju 2025 put divergences in the place of squares.
    """
    return Misfit(
        _mean(squared_distances(student_NC, supervisor_NC)),
        _mean(divergences(supervisor_NC, student_NC)),
    )


def cohens_kappa(first_N: Any, second_N: Any) -> float:
    """Agreement of two raters beyond chance (Cohen 1960): (observed - chance) / (1 - chance).

    Chance is what their own rates of answers give. NaN without rows, or if both give one and the
    same answer to everything.
    """
    first_N, second_N = np.asarray(first_N), np.asarray(second_N)
    if not len(first_N):
        return float("nan")
    observed = float((first_N == second_N).mean())
    chance = sum(
        float((first_N == answer).mean() * (second_N == answer).mean())
        for answer in np.union1d(first_N, second_N)
    )
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


class ReliabilityBin(NamedTuple):
    """Rows of similar confidence."""

    confidence: float
    """Mean probability of their most probable classes."""
    accuracy: float
    """Share of them that is right."""
    num_rows: int
    """Their number."""


def reliability(
    probabilities_NC: Floats, labels_N: Integers, num_bins: int = 10
) -> list[ReliabilityBin]:
    """Accuracy by confidence, in the bins of `expected_calibration_error` that have rows."""
    confidence_N = np.max(probabilities_NC, axis=1)
    right_N = correctness(probabilities_NC, labels_N)
    bin_N = _confidence_bins(confidence_N, num_bins)
    inside = [bin_N == index for index in range(num_bins)]
    return [
        ReliabilityBin(_mean(confidence_N[rows]), _mean(right_N[rows]), int(rows.sum()))
        for rows in inside
        if rows.any()
    ]


def _confidence_bins(confidence_N: Floats, num_bins: int) -> Integers:
    """Bin of each row: equal width, an edge belongs to the bin below it."""
    return np.clip(np.ceil(confidence_N * num_bins).astype(int) - 1, 0, num_bins - 1)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
