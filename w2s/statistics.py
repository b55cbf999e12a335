"""How certain a score is: a paired bootstrap over rows and seeds.

Scores are per row, [S seeds, N rows]: 1 where a prediction is right, 0 where it is wrong, or any
other score whose mean is the result. A resample draws rows (or whole groups of rows) and seeds with
replacement, the rows alike for all arrays: that is what "paired" means.

    compare(floor, student, ceiling, seed=0).pgr    point and 95 % interval, or None: gap too small
    difference(first, second, seed=0)               is one better than the other?
    mean(scores, seed=0)                            one score

Below them is what larger designs are made of: `Resampled` is one number with its value in every
resample (`w2s.resamples`), so that sums, differences, ratios and means over tasks of such numbers
stay paired and have intervals.

Seed s of a student learns from seed s of its floor: equally many seeds of one stream are drawn
together.

R resamples, S seeds, N rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w2s.resamples import (
    CEILING,
    NUM_RESAMPLES,
    TEACHING,
    Floats,
    Groups,
    Resamples,
    seed_weights,
)

Z_TWO_SIDED = 1.959964
"""Normal quantile of a two-sided test at 5 %."""
Z_POWER = 0.841621
"""Normal quantile of 80 % power."""


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


@dataclass(frozen=True, slots=True)
class Power:
    """What a comparison can see: two-sided test at 5 %, 80 % power."""

    detectable: float
    """Smallest difference that would be found."""
    num_rows: int | None
    """Rows that would show the effect asked for; None: no number of rows does with these seeds."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A number and its value in every resample; NaN where a resample has none."""

    point: float
    """Its value on the rows and seeds there are."""
    values_R: Floats
    """Rows and seeds drawn."""
    rows_SR: Floats
    """Rows drawn, each seed by itself: tells the noise of the test set from that of seeds. Of a
    ratio or a median, one for all seeds."""

    def __add__(self, other: "Resampled") -> "Resampled":
        """Sum, resample by resample."""
        first_SR, second_SR = _paired(self.rows_SR, other.rows_SR)
        return Resampled(
            self.point + other.point, self.values_R + other.values_R, first_SR + second_SR
        )

    def __sub__(self, other: "Resampled") -> "Resampled":
        """Difference, resample by resample."""
        return self + other * -1.0

    def __mul__(self, factor: float) -> "Resampled":
        """A multiple."""
        return Resampled(self.point * factor, self.values_R * factor, self.rows_SR * factor)

    def __truediv__(self, other: "Resampled") -> "Resampled":
        """Ratio, resample by resample; NaN over 0."""

        def over(first_R: Floats, second_R: Floats) -> Floats:
            nothing_R = np.full(len(first_R), np.nan)
            return np.divide(first_R, second_R, out=nothing_R, where=second_R != 0)

        return Resampled(
            self.point / other.point if other.point else math.nan,
            over(self.values_R, other.values_R),
            over(self.rows_SR.mean(0), other.rows_SR.mean(0))[None],
        )

    @property
    def estimate(self) -> Estimate:
        """Point and 95 % percentile interval."""
        values_R = self.values_R[~np.isnan(self.values_R)]
        if not len(values_R):
            return Estimate(self.point, math.nan, math.nan)
        # Values that were drawn, not interpolated between: a ratio may be infinite in a few.
        low, high = np.quantile(values_R, [0.025, 0.975], method="inverted_cdf")
        return Estimate(self.point, float(low), float(high))

    @property
    def standard_error(self) -> float:
        """Standard deviation over the resamples."""
        return float(np.nanstd(self.values_R))

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that it is 0: normal, with the bootstrap's standard error.

        Unlike a share of resamples it can be far below 1/R, which a correction for many tests
        needs.
        """
        error = self.standard_error
        if error == 0:
            return 1.0 if self.point == 0 else 0.0
        return math.erfc(abs(self.point) / error / math.sqrt(2))

    def power(self, num_rows: int, effect: float) -> Power:
        """Whether rows and seeds are enough to tell this difference from 0 if it is `effect`.

        More rows shrink all of its variance but what seeds differ by on any rows. That part is the
        variance that drawing seeds adds, less twice the share of it that comes from seeds being
        scored on few rows: once for the rows there are, once for drawing them again.

        Args:
            num_rows: rows it was computed on.
            effect: difference asked for, above 0.
        """
        z = Z_TWO_SIDED + Z_POWER
        total = self.standard_error**2
        means_R = self.rows_SR.mean(0)
        added = total - float(np.nanvar(means_R))
        by_rows = float(np.nanvar(self.rows_SR - means_R, axis=1).mean()) / len(self.rows_SR)
        seeds = max(0.0, added - 2 * by_rows)
        spare = (effect / z) ** 2 - seeds
        return Power(
            detectable=z * self.standard_error,
            num_rows=math.ceil(num_rows * (total - seeds) / spare) if spare > 0 else None,
        )


def _paired(first_SR: Floats, second_SR: Floats) -> tuple[Floats, Floats]:
    """Both seed by seed; as means if they have different seeds."""
    if len(first_SR) == len(second_SR) or 1 in (len(first_SR), len(second_SR)):
        return first_SR, second_SR
    return first_SR.mean(0, keepdims=True), second_SR.mean(0, keepdims=True)


def constant(value: float, num_resamples: int = NUM_RESAMPLES) -> Resampled:
    """A number that is known without error."""
    values_R = np.full(num_resamples, value)
    return Resampled(value, values_R, values_R[None])


def mean_over(numbers: Sequence[Resampled]) -> Resampled:
    """Plain mean of several numbers, such as one score on several tasks."""
    return linear([1 / len(numbers)] * len(numbers), numbers)


def median_over(numbers: Sequence[Resampled]) -> Resampled:
    """Median of several numbers, taken anew in every resample."""
    means_KR = [number.rows_SR.mean(0) for number in numbers]
    # Between two ratios that are infinite on either side there is nothing.
    with np.errstate(invalid="ignore"):
        return Resampled(
            float(np.median([number.point for number in numbers])),
            np.median([number.values_R for number in numbers], axis=0),
            np.median(means_KR, axis=0)[None],
        )


def linear(weights: Sequence[float], numbers: Sequence[Resampled]) -> Resampled:
    """Weighted sum."""
    total = numbers[0] * weights[0]
    for weight, number in zip(weights[1:], numbers[1:], strict=True):
        total = total + number * weight
    return total


def slope(places: Sequence[float], numbers: Sequence[Resampled]) -> Resampled:
    """Least-squares slope of the numbers against their places, such as log10 of model sizes.

    Raises:
        ValueError: fewer than two different places.
    """
    distance_K = np.asarray(places, dtype=np.float64) - np.mean(places)
    if not distance_K.any():
        raise ValueError("a slope needs at least two different places")
    return linear((distance_K / (distance_K**2).sum()).tolist(), numbers)


def gap_recovered(gain: Resampled, gap: Resampled) -> Resampled | None:
    """PGR, gain / gap; None when the interval of the gap reaches down to 0.

    A resample without a gap counts as infinite: they are too few to be an end of the interval of a
    gap that excludes 0.
    """
    if not gap.estimate.low > 0:
        return None

    def over(gain_R: Floats, gap_R: Floats) -> Floats:
        return np.divide(gain_R, gap_R, out=np.copysign(np.inf, gain_R), where=gap_R > 0)

    return Resampled(
        gain.point / gap.point,
        over(gain.values_R, gap.values_R),
        over(gain.rows_SR.mean(0), gap.rows_SR.mean(0))[None],
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm 1979), in the order given.

    The i-th smallest of m, counted from 0, is multiplied by m - i, is no smaller than those before
    it, and at most 1. Rejecting those at most 5 % errs anywhere with at most 5 %.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def over_seeds(points_S: Floats, means_SR: Floats, weights_RS: Floats) -> Resampled:
    """One number from the values of its seeds, on all rows and in every resample of them."""
    return Resampled(
        float(np.mean(points_S)),
        np.einsum("sr,rs->r", means_SR, weights_RS),
        means_SR,
    )


def comparison(
    floor: Resampled, student: Resampled, ceiling: Resampled, num_rows: int, num_seeds: int
) -> Comparison:
    """A student between its floor and its ceiling, all three of the same resamples."""
    gain, gap = student - floor, ceiling - floor
    pgr = gap_recovered(gain, gap)
    return Comparison(
        floor=floor.estimate,
        student=student.estimate,
        ceiling=ceiling.estimate,
        gain=gain.estimate,
        gap=gap.estimate,
        pgr=pgr.estimate if pgr is not None else None,
        num_rows=num_rows,
        num_seeds=num_seeds,
    )


def compare(
    floor_SN: Floats,
    student_SN: Floats,
    ceiling_SN: Floats,
    *,
    seed: int,
    groups: Groups | None = None,
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
    resamples = Resamples(floor_SN.shape[1], seed=seed, groups=groups, num_resamples=num_resamples)
    return comparison(
        _scored(floor_SN, resamples, TEACHING, seed),
        _scored(student_SN, resamples, TEACHING, seed),
        _scored(ceiling_SN, resamples, CEILING, seed),
        floor_SN.shape[1],
        len(student_SN),
    )


def difference(
    first_SN: Floats,
    second_SN: Floats,
    *,
    seed: int,
    groups: Groups | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Estimate:
    """Mean of the first minus mean of the second on the same rows.

    Seeds are drawn together when both have equally many, else each by itself. For the rest see
    `compare`.
    """
    first_SN, second_SN = _checked(first_SN, second_SN)
    resamples = Resamples(first_SN.shape[1], seed=seed, groups=groups, num_resamples=num_resamples)
    first = _scored(first_SN, resamples, TEACHING, seed)
    return (first - _scored(second_SN, resamples, TEACHING, seed)).estimate


def mean(
    scores_SN: Floats,
    *,
    seed: int,
    groups: Groups | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> Estimate:
    """Mean over seeds and rows. For the arguments see `compare`."""
    (scores_SN,) = _checked(scores_SN)
    resamples = Resamples(scores_SN.shape[1], seed=seed, groups=groups, num_resamples=num_resamples)
    return _scored(scores_SN, resamples, TEACHING, seed).estimate


def _scored(scores_SN: Floats, resamples: Resamples, stream: int, seed: int) -> Resampled:
    weights_RS = seed_weights(
        len(scores_SN), stream=stream, seed=seed, num_resamples=resamples.num_resamples
    )
    return over_seeds(scores_SN.mean(1), resamples.means(scores_SN), weights_RS)


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
