"""How certain a score is: a paired bootstrap over rows and seeds.

Scores are per row, [S seeds, N rows]: 1 where a prediction is right, 0 where it is wrong, or any
other score whose mean is the result. A resample draws rows (or whole groups of rows) and seeds with
replacement, the rows alike for all arrays: that is what "paired" means.

    compare(floor, student, ceiling, seed=0).pgr    point and 95 % interval, or None: gap too small
    difference(first, second, seed=0)               is one better than the other?
    mean(scores, seed=0)                            one score

Below them are two objects for larger designs. `Resamples` draws the rows once and scores many
arrays on them, by mean or by AUROC; `Resampled` is one number with its value in every resample, so
that sums, differences, ratios and means over tasks of such numbers stay paired and have intervals.

Seed s of a student learns from seed s of its floor: equally many seeds of one stream are drawn
together.

R resamples, S seeds, N rows, G groups, K arrays, B resamples of a block.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Groups = Sequence[object] | NDArray[np.generic]
NUM_RESAMPLES = 2000
BLOCK = 64
"""Resamples scored at once: a block of 2,000 rows stays in the cache."""
TEACHING, CEILING = 0, 1
"""Streams of seeds: a floor, its supervisor and its student share one, the ceiling has its own."""
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


def weighted_auroc(scores_N: Floats, positive_N: NDArray[np.bool_], weights_NB: Floats) -> Floats:
    """AUROC under each column of row weights: [B]; ties count one half, NaN if a class is missing.

    The share of the weight of (positive, negative) pairs in which the positive scores higher.
    """
    return _Ranking(scores_N, positive_N).auroc(weights_NB)


class _Ranking:
    """Scores sorted once: what lies below a positive is a difference of cumulative weights."""

    def __init__(self, scores_N: Floats, positive_N: NDArray[np.bool_]) -> None:
        order_N = np.argsort(scores_N, kind="stable")
        self._positives = order_N[positive_N[order_N]]
        self._negatives = order_N[~positive_N[order_N]]
        negative_scores, positive_scores = scores_N[self._negatives], scores_N[self._positives]
        self._below = np.searchsorted(negative_scores, positive_scores, side="left")
        self._up_to = np.searchsorted(negative_scores, positive_scores, side="right")
        self._tied = bool((self._below != self._up_to).any())

    def auroc(self, weights_NB: Floats) -> Floats:
        cumulative = _cumulative(weights_NB[self._negatives])
        weights_PB = weights_NB[self._positives]
        won_PB = cumulative[self._below]
        if self._tied:
            won_PB = (won_PB + cumulative[self._up_to]) / 2
        won_B = np.einsum("pb,pb->b", weights_PB, won_PB, dtype=np.float64)
        pairs_B = weights_PB.sum(0, dtype=np.float64) * cumulative[-1]
        return np.divide(won_B, pairs_B, out=np.full(len(pairs_B), np.nan), where=pairs_B > 0)


PIECE = 32
TRIANGLE = np.tril(np.ones((PIECE, PIECE), dtype=np.float32))


def _cumulative(weights_KB: Floats) -> Floats:
    """Sums of the first 0 to K rows: [K + 1, B].

    By matrix products over pieces of rows: three times as fast as adding row after row.
    """
    num_rows, width = weights_KB.shape
    num_pieces = -(-num_rows // PIECE)
    padded = np.zeros((num_pieces * PIECE, width), dtype=weights_KB.dtype)
    padded[:num_rows] = weights_KB
    sums = np.matmul(TRIANGLE, padded.reshape(num_pieces, PIECE, width))
    sums[1:] += np.cumsum(sums[:-1, -1:], axis=0)
    cumulative = np.zeros((num_rows + 1, width), dtype=weights_KB.dtype)
    cumulative[1:] = sums.reshape(-1, width)[:num_rows]
    return cumulative


class Resamples:
    """Rows drawn with replacement, R times, for every array that is scored on them."""

    def __init__(
        self,
        num_rows: int,
        *,
        seed: int | Sequence[int],
        groups: Groups | None = None,
        num_resamples: int = NUM_RESAMPLES,
    ) -> None:
        """Draw.

        Args:
            num_rows: N.
            seed: of the draws; equal seeds give equal draws.
            groups: cluster of each row (question, entity); whole clusters are drawn.
            num_resamples: R.

        Raises:
            ValueError: no rows, or not one group a row.
        """
        if num_rows == 0:
            raise ValueError("no rows to resample")
        if groups is not None and len(groups) != num_rows:
            raise ValueError(
                f"need one group per row; found {len(groups)} groups for {num_rows} rows"
            )
        self.num_rows = num_rows
        self.num_resamples = num_resamples
        self._group_N = (
            np.unique(np.asarray(groups), return_inverse=True)[1] if (groups is not None) else None
        )
        num_groups = num_rows if self._group_N is None else int(self._group_N.max()) + 1
        rng = np.random.default_rng(seed)
        # How often each group comes up; small integers, because they are kept.
        self._counts = [
            _draws(rng, num_groups, min(BLOCK, num_resamples - start)).astype(np.uint16)
            for start in range(0, num_resamples, BLOCK)
        ]

    def means(self, scores_KN: Floats) -> Floats:
        """Mean of each array in each resample: [K, R]."""
        sums_KG = self._by_group(np.asarray(scores_KN, dtype=np.float64)).astype(np.float32)
        sizes_G = self._by_group(np.ones((1, self.num_rows)))[0].astype(np.float32)
        return np.concatenate(
            [
                (sums_KG @ counts_GB).astype(np.float64) / (sizes_G @ counts_GB)
                for counts_GB in self._blocks()
            ],
            axis=1,
        )

    def auroc(
        self, scores_KN: Floats, positive_N: NDArray[np.bool_], num_resamples: int | None = None
    ) -> Floats:
        """AUROC of each array in each of the first `num_resamples` (None: all): [K, R]."""
        wanted = num_resamples or self.num_resamples
        rankings = [_Ranking(row_N, positive_N) for row_N in scores_KN]
        blocks: list[Floats] = []
        for counts_GB in itertools.islice(self._blocks(), -(-wanted // BLOCK)):
            weights_NB = counts_GB if self._group_N is None else counts_GB[self._group_N]
            blocks.append(np.stack([ranking.auroc(weights_NB) for ranking in rankings]))
        return np.concatenate(blocks, axis=1)[:, :wanted]

    def _blocks(self) -> Iterator[Floats]:
        for counts_GB in self._counts:
            yield counts_GB.astype(np.float32)

    def _by_group(self, values_KN: Floats) -> Floats:
        if self._group_N is None:
            return values_KN
        num_groups = int(self._group_N.max()) + 1
        return np.stack(
            [np.bincount(self._group_N, weights=row, minlength=num_groups) for row in values_KN]
        ).astype(np.float64)


def seed_weights(
    num_seeds: int, *, stream: int, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Floats:
    """Weights of seeds in each resample, [R, S], rows sum to 1; alike for equal arguments."""
    rng = np.random.default_rng([seed, stream, num_seeds])
    return _draws(rng, num_seeds, num_resamples).T / num_seeds


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


def _draws(rng: np.random.Generator, count: int, num_resamples: int) -> NDArray[np.int64]:
    """How often each of `count` things comes up in `count` draws: [count, R]."""
    drawn_RG = rng.integers(0, count, size=(num_resamples, count))
    drawn_RG += np.arange(num_resamples)[:, None] * count
    counted = np.bincount(drawn_RG.ravel(), minlength=num_resamples * count)
    return counted.reshape(num_resamples, count).T


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
