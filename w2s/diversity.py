"""How unlike the members of an ensemble are, and what that brings.

M members, N rows, C classes. Pairs are unordered pairs of different members.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from w2s.metrics import Floats, Integers, brier


class Diversity(NamedTuple):
    """Numbers of one ensemble on one set of rows."""

    disagreement: float
    """Mean over pairs of the share of rows on which their most probable classes differ: 0 to 1."""
    q_statistic: float
    """Mean over pairs of Yule's Q of being right: 1 if they err on the same rows, 0 if
    independently, -1 if on different rows (Kuncheva and Whitaker 2003); NaN if no pair has one."""
    ambiguity: float
    """What combining brings: the members' mean squared error of probabilities (Brier) minus the
    ensemble's, 0 to 2. Of a mean of probabilities it is the members' mean squared distance to it,
    so never below 0 (Krogh and Vedelsby 1995)."""


def diversity(members_MNC: Floats, ensemble_NC: Floats, labels_N: Integers) -> Diversity:
    """Diversity of members and the ambiguity of what was made of them.

    Args:
        members_MNC: class probabilities of each member, two members or more.
        ensemble_NC: those of the ensemble.
        labels_N: truth.
    """
    predicted_MN = members_MNC.argmax(2)
    errors = [brier(member_NC, labels_N) for member_NC in members_MNC]
    return Diversity(
        disagreement=disagreement(predicted_MN),
        q_statistic=q_statistic(predicted_MN == labels_N),
        ambiguity=float(np.mean(errors)) - brier(ensemble_NC, labels_N),
    )


def disagreement(predicted_MN: Integers) -> float:
    """Mean over pairs of the share of rows on which they predict different classes."""
    shares = [(first != second).mean() for first, second in combinations(predicted_MN, 2)]
    return float(np.mean(shares))


def q_statistic(correct_MN: NDArray[np.bool_]) -> float:
    """Mean over pairs of (ad - bc) / (ad + bc): a both right, d both wrong, b and c one of them.

    A pair without any product, such as two members that are never wrong, has no Q.
    """
    found = []
    for first_N, second_N in combinations(correct_MN, 2):
        alike = int((first_N & second_N).sum()) * int((~first_N & ~second_N).sum())
        unlike = int((first_N & ~second_N).sum()) * int((~first_N & second_N).sum())
        if alike + unlike:
            found.append((alike - unlike) / (alike + unlike))
    return float(np.mean(found)) if found else float("nan")
