"""The paired bootstrap against exact answers."""

import math

import numpy as np
import pytest

from w2s import statistics
from w2s.statistics import compare, difference, mean


def right(rng: np.random.Generator, share: float, seeds: int = 5, rows: int = 400) -> np.ndarray:
    return (rng.random((seeds, rows)) < share).astype(float)


def test_point_estimates_are_plain_means() -> None:
    floor = np.array([[1, 0, 0, 0], [1, 1, 0, 0]])
    student = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
    ceiling = np.ones((3, 4))
    found = compare(floor, student, ceiling, seed=0)
    assert (found.floor.point, found.student.point, found.ceiling.point) == (0.375, 0.625, 1.0)
    assert (found.gain.point, found.gap.point) == (0.25, 0.625)
    assert (found.num_rows, found.num_seeds) == (4, 2)


def test_pgr_is_gain_over_gap() -> None:
    rng = np.random.default_rng(0)
    found = compare(right(rng, 0.6), right(rng, 0.7), right(rng, 0.8), seed=0)
    assert found.pgr is not None
    assert found.pgr.point == pytest.approx(found.gain.point / found.gap.point)
    assert 0 < found.pgr.low < found.pgr.point < found.pgr.high < 1


def test_interval_of_one_seed_is_the_binomial_one() -> None:
    scores = np.repeat([1.0, 0.0], [700, 300])
    found = mean(scores, seed=0, num_resamples=8000)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 1000)
    assert found.low == pytest.approx(0.7 - half, abs=0.002)
    assert found.high == pytest.approx(0.7 + half, abs=0.002)


def test_seeds_that_differ_widen_the_interval() -> None:
    rows = np.repeat([1.0, 0.0], [700, 300])
    alike = np.stack([rows] * 4)
    unlike = np.stack(
        [np.repeat([1.0, 0.0], [count, 1000 - count]) for count in (500, 600, 800, 900)]
    )
    assert unlike.mean() == alike.mean()
    narrow, wide = mean(alike, seed=0), mean(unlike, seed=0)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_pairing_over_rows_removes_their_noise() -> None:
    # The second is right wherever the first is, and on 5 more of 100 rows.
    first = np.repeat([1.0, 0.0], [50, 50])
    second = np.repeat([1.0, 0.0], [55, 45])
    found = difference(second, first, seed=0)
    half = 1.96 * math.sqrt(0.05 * 0.95 / 100)
    assert found.point == pytest.approx(0.05)
    assert found.high - found.low == pytest.approx(2 * half, abs=0.015)
    assert found.excludes_zero


def test_pairing_over_seeds_removes_their_noise() -> None:
    # A seed is good or bad for both; the student is always 10 points better.
    counts = (400, 500, 600, 700)
    floor = np.stack([np.repeat([1.0, 0.0], [count, 1000 - count]) for count in counts])
    student = np.stack([np.repeat([1.0, 0.0], [count + 100, 900 - count]) for count in counts])
    paired = difference(student, floor, seed=0)
    unpaired = difference(student, floor[:3], seed=0)
    assert paired.high - paired.low < 0.05
    assert unpaired.high - unpaired.low > 0.15


def test_equal_models_have_no_difference_at_all() -> None:
    scores = right(np.random.default_rng(1), 0.6)
    found = difference(scores, scores, seed=0)
    assert (found.point, found.low, found.high) == (0, 0, 0)
    assert not found.excludes_zero


def test_equal_floor_and_ceiling_have_no_pgr() -> None:
    rng = np.random.default_rng(2)
    floor = right(rng, 0.6)
    found = compare(floor, right(rng, 0.7), floor, seed=0)
    assert found.pgr is None
    assert found.gap_too_small


def test_ceiling_below_floor_has_no_pgr() -> None:
    rng = np.random.default_rng(3)
    assert compare(right(rng, 0.8), right(rng, 0.7), right(rng, 0.6), seed=0).pgr is None


def test_gap_within_noise_has_no_pgr() -> None:
    rng = np.random.default_rng(4)
    floor = right(rng, 0.60, rows=100)
    ceiling = np.where(rng.random(floor.shape) < 0.02, 1.0, right(rng, 0.60, rows=100))
    assert compare(floor, floor, ceiling, seed=0).pgr is None


def test_interval_of_pgr_is_finite_at_the_edge_of_noise() -> None:
    rng = np.random.default_rng(5)
    finite = 0
    for _ in range(30):
        found = compare(
            right(rng, 0.5, 1, 60), right(rng, 0.6, 1, 60), right(rng, 0.7, 1, 60), seed=0
        )
        if found.pgr is not None:
            finite += math.isfinite(found.pgr.low) and math.isfinite(found.pgr.high)
        else:
            finite += 1
    assert finite == 30


def test_student_may_have_fewer_seeds_than_its_baselines() -> None:
    rng = np.random.default_rng(6)
    found = compare(right(rng, 0.6), right(rng, 0.7, seeds=2), right(rng, 0.8), seed=0)
    assert found.num_seeds == 2
    assert found.pgr is not None


def test_groups_are_drawn_whole() -> None:
    # 20 questions of 10 equal rows tell no more than 20 rows.
    per_group = right(np.random.default_rng(7), 0.6, seeds=1, rows=20)
    rows = np.repeat(per_group, 10, axis=1)
    grouped = mean(rows, seed=0, groups=[f"question {i // 10}" for i in range(200)])
    alone = mean(per_group, seed=0)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, abs=0.06)
    ungrouped = mean(rows, seed=0)
    assert grouped.high - grouped.low > 2.5 * (ungrouped.high - ungrouped.low)


def test_groups_of_one_row_change_nothing() -> None:
    scores = right(np.random.default_rng(8), 0.6)
    assert mean(scores, seed=0, groups=np.arange(400)) == mean(scores, seed=0)


def test_equal_seeds_give_equal_intervals() -> None:
    scores = right(np.random.default_rng(9), 0.6)
    assert mean(scores, seed=1) == mean(scores, seed=1)
    assert mean(scores, seed=1) != mean(scores, seed=2)


def test_ninety_five_percent_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(10)
    covered = 0
    for _ in range(200):
        found = mean(right(rng, 0.6, seeds=1, rows=200), seed=0, num_resamples=500)
        covered += found.low <= 0.6 <= found.high
    assert 180 <= covered <= 198


@pytest.mark.parametrize(
    ("floor", "student", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "same rows"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), "NaN"),
        (np.ones((0, 3)), np.ones((2, 3)), "at least one"),
    ],
)
def test_unusable_scores_are_refused(floor: np.ndarray, student: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(floor, student, np.ones((2, 3)), seed=0)


def test_groups_must_fit_the_rows() -> None:
    with pytest.raises(ValueError, match="one group per row"):
        statistics.mean(np.ones(3), seed=0, groups=["a", "b"])
