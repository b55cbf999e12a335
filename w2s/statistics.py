"""How certain a score is: a paired bootstrap over rows and seeds.

Every function takes scores per row, [S seeds, N rows]: 1 where a prediction is right, 0 where it is
wrong, or any other score whose mean is the result. All arrays of one call hold the same rows in the
same order; a resample draws rows (or whole groups of rows) and seeds with replacement, the rows
alike for all arrays: that is what "paired" means.

Seed s of a student learns from seed s of its floor: arrays with equally many seeds draw seeds
together where a function says so.

    compare(floor, student, ceiling, seed=0).pgr    point and 95 % interval, or None: gap too small
    difference(first, second, seed=0)               is one better than the other?
    mean(scores, seed=0)                            one score

R resamples, S seeds, N rows, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
NUM_RESAMPLES = 2000
DRAW_BLOCK = 50
"""Resamples counted at once: their counts stay in the cache."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % percentile interval."""

    point: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """A student between its floor and its ceiling."""

    floor: Estimate
    student: Estimate
    ceiling: Estimate
    gain: Estimate
    """Student - floor."""
    gap: Estimate
    """Ceiling - floor, from all their seeds."""
    pgr: Estimate | None
    """Gain / gap; None when the gap is too small."""
    num_rows: int
    num_seeds: int
    """Seeds of the student."""

    @property
    def gap_too_small(self) -> bool:
        """Whether the interval of the gap reaches down to 0: the ratio then says nothing."""
        return self.pgr is None


class _Resamples:
    """Weights of rows and seeds, drawn once for all arrays of a call."""

    def __init__(
        self,
        num_rows: int,
        groups: Sequence[object] | NDArray[np.generic] | None,
        seed: int,
        num_resamples: int,
    ) -> None:
        if num_rows == 0:
            raise ValueError("no rows to resample")
        self.num_rows = num_rows
        self._rng = np.random.default_rng(seed)
        self._num_resamples = num_resamples
        self._group_N = None
        if groups is not None:
            if len(groups) != num_rows:
                raise ValueError(
                    f"need one group per row; found {len(groups)} groups for {num_rows} rows"
                )
            self._group_N = np.unique(np.asarray(groups), return_inverse=True)[1]
        self._sizes_G = self._by_group(np.ones((1, num_rows)))[0]
        self._counts_RG = self._draw(len(self._sizes_G))
        self._total_R = self._counts_RG @ self._sizes_G.astype(np.float32)

    def seeds(self, num_seeds: int) -> Floats:
        """Weights of seeds [R, S], rows sum to 1."""
        return self._draw(num_seeds) / np.float32(num_seeds)

    def means(self, scores_SN: Floats, seeds_RS: Floats) -> Floats:
        """Mean score of each resample [R]."""
        sums_RS = self._counts_RG @ self._by_group(scores_SN).T.astype(np.float32)
        return (sums_RS * seeds_RS).sum(1, dtype=np.float64) / self._total_R

    def _by_group(self, values_SN: Floats) -> Floats:
        if self._group_N is None:
            return values_SN
        num_groups = int(self._group_N.max()) + 1
        return np.stack(
            [np.bincount(self._group_N, weights=row, minlength=num_groups) for row in values_SN]
        ).astype(np.float64)

    def _draw(self, count: int) -> Floats:
        """How often each of `count` things comes up in `count` draws: [R, count]."""
        drawn_RG = np.empty((self._num_resamples, count), dtype=np.float32)
        for start in range(0, self._num_resamples, DRAW_BLOCK):
            block = drawn_RG[start : start + DRAW_BLOCK]
            places = self._rng.integers(0, count, size=block.shape)
            places += np.arange(len(block))[:, None] * count
            block[:] = np.bincount(places.ravel(), minlength=block.size).reshape(block.shape)
        return drawn_RG


def compare(
    floor_SN: Floats,
    student_SN: Floats,
    ceiling_SN: Floats,
    *,
    seed: int,
    groups: Sequence[object] | NDArray[np.generic] | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Scores of floor, student and ceiling, their differences and the PGR, each with its interval.

    Numbers of seeds may differ; the denominator of the PGR comes from all seeds of floor and
    ceiling. Floor and student draw their seeds together when they have equally many, else each by
    itself; the ceiling always by itself.

    Args:
        floor_SN: weak supervisor's scores; a single row [N] is one seed.
        student_SN: student's, seed s taught by seed s of the floor.
        ceiling_SN: ceiling's.
        seed: of the resampling; equal seeds give equal intervals.
        groups: cluster of each row (question, entity); whole clusters are drawn.
        num_resamples: R.

    Raises:
        ValueError: no rows or seeds, different rows, or a score that is NaN.
    """
    floor_SN, student_SN, ceiling_SN = _checked(floor_SN, student_SN, ceiling_SN)
    resamples = _Resamples(floor_SN.shape[1], groups, seed, num_resamples)
    floor_seeds_RS = resamples.seeds(len(floor_SN))
    paired = len(student_SN) == len(floor_SN)
    student_seeds_RS = floor_seeds_RS if paired else resamples.seeds(len(student_SN))
    floor_R = resamples.means(floor_SN, floor_seeds_RS)
    student_R = resamples.means(student_SN, student_seeds_RS)
    ceiling_R = resamples.means(ceiling_SN, resamples.seeds(len(ceiling_SN)))

    floor, student, ceiling = (
        float(scores.mean()) for scores in (floor_SN, student_SN, ceiling_SN)
    )
    gain = _estimate(student - floor, student_R - floor_R)
    gap = _estimate(ceiling - floor, ceiling_R - floor_R)
    return Comparison(
        floor=_estimate(floor, floor_R),
        student=_estimate(student, student_R),
        ceiling=_estimate(ceiling, ceiling_R),
        gain=gain,
        gap=gap,
        pgr=None
        if gap.low <= 0
        else _ratio(gain.point, gap.point, student_R - floor_R, ceiling_R - floor_R),
        num_rows=floor_SN.shape[1],
        num_seeds=len(student_SN),
    )


def difference(
    first_SN: Floats,
    second_SN: Floats,
    *,
    seed: int,
    groups: Sequence[object] | NDArray[np.generic] | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Estimate:
    """Mean of the first minus mean of the second on the same rows.

    Seeds are drawn together when both have equally many, else each by itself. For the rest see
    `compare`.
    """
    first_SN, second_SN = _checked(first_SN, second_SN)
    resamples = _Resamples(first_SN.shape[1], groups, seed, num_resamples)
    first_seeds_RS = resamples.seeds(len(first_SN))
    paired = len(first_SN) == len(second_SN)
    second_seeds_RS = first_seeds_RS if paired else resamples.seeds(len(second_SN))
    difference_R = resamples.means(first_SN, first_seeds_RS) - resamples.means(
        second_SN, second_seeds_RS
    )
    return _estimate(float(first_SN.mean() - second_SN.mean()), difference_R)


def mean(
    scores_SN: Floats,
    *,
    seed: int,
    groups: Sequence[object] | NDArray[np.generic] | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Estimate:
    """Mean over seeds and rows. For the arguments see `compare`."""
    (scores_SN,) = _checked(scores_SN)
    resamples = _Resamples(scores_SN.shape[1], groups, seed, num_resamples)
    means_R = resamples.means(scores_SN, resamples.seeds(len(scores_SN)))
    return _estimate(float(scores_SN.mean()), means_R)


def _checked(*arrays: Floats) -> list[Floats]:
    checked: list[Floats] = [np.atleast_2d(np.asarray(array, dtype=np.float64)) for array in arrays]
    if any(array.ndim != 2 or array.size == 0 for array in checked):
        raise ValueError(
            "scores are [seeds, rows] with at least one of each; "
            f"found {[array.shape for array in checked]}"
        )
    if len({array.shape[1] for array in checked}) > 1:
        raise ValueError(
            f"scores must be of the same rows; found {[a.shape[1] for a in checked]} rows"
        )
    if any(np.isnan(array).any() for array in checked):
        raise ValueError("a score is NaN: every row needs a prediction of every seed")
    return checked


def _estimate(point: float, values_R: Floats) -> Estimate:
    # Values that were drawn, not interpolated between: a ratio may be infinite in a few resamples.
    low, high = np.quantile(values_R, [0.025, 0.975], method="inverted_cdf")
    return Estimate(point, float(low), float(high))


def _ratio(gain: float, gap: float, gain_R: Floats, gap_R: Floats) -> Estimate:
    """PGR; a resample without a gap counts as infinite.

    The interval of the gap excludes 0, so such resamples are too few to be an end of this one.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_R = np.where(gap_R > 0, gain_R / gap_R, np.copysign(np.inf, gain_R))
    return _estimate(gain / gap, ratio_R)
