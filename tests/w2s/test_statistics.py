"""The paired bootstrap against exact answers."""

import math

import numpy as np
import pytest

from w2s import statistics
from w2s.metrics import auroc
from w2s.resamples import Ranking, Resamples, seed_weights
from w2s.statistics import (
    Resampled,
    compare,
    constant,
    difference,
    gap_recovered,
    holm,
    mean,
    mean_over,
    median_over,
    over_seeds,
    slope,
)


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


def number(values: list[float], rows: list[list[float]] | None = None) -> Resampled:
    """A number with these resamples, of one seed or those given, and their mean as its point."""
    array = np.array(values, dtype=float)
    return Resampled(float(array.mean()), array, np.array(rows or [values], dtype=float))


def test_weighted_auroc_equals_a_hand_worked_number() -> None:
    scores = np.array([0.1, 0.4, 0.4, 0.8])
    positive = np.array([False, True, False, True])
    # Pairs won: (row 1, row 0) 1, (row 1, row 2) tie, (row 3, row 0) 1, (row 3, row 2) 1.
    alike, weighted = np.ones(4), np.array([2.0, 1.0, 1.0, 3.0])
    expected = [3.5 / 4, (2 * 1 + 0.5 * 1 + 3 * 2 + 3 * 1) / ((1 + 3) * (2 + 1))]
    found = Ranking(scores, positive).auroc(np.stack([alike, weighted], axis=1))
    assert found == pytest.approx(expected)


def test_weights_of_auroc_are_rows_that_occur_that_often() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, 30) / 7  # With many ties.
    positive = rng.random(30) < 0.4
    weights = rng.integers(0, 4, (30, 5))
    expected = [
        auroc(np.repeat(scores, column), np.repeat(positive, column).astype(int))
        for column in weights.T
    ]
    assert Ranking(scores, positive).auroc(weights.astype(float)) == pytest.approx(expected)


def test_auroc_without_a_class_in_a_resample_is_left_out_of_the_interval() -> None:
    weights = np.array([[1.0, 0.0], [1.0, 1.0]])
    found = Ranking(np.array([0.2, 0.9]), np.array([False, True])).auroc(weights)
    assert found[0] == 1
    assert math.isnan(found[1])
    assert Resampled(1.0, found, found[None]).estimate == statistics.Estimate(1.0, 1.0, 1.0)


def test_accuracy_and_auroc_are_resampled_on_the_same_rows() -> None:
    # With scores of 0 and 1, AUROC is the mean of both classes' accuracies.
    rng = np.random.default_rng(1)
    positive = np.arange(60) % 2 == 0
    scores = (rng.random((2, 60)) < np.where(positive, 0.8, 0.3)).astype(float)
    groups = np.arange(60) // 2  # Both classes in each group: their shares never change.
    resamples = Resamples(60, seed=0, groups=groups, num_resamples=100)
    right = np.where(positive, scores, 1 - scores)
    assert resamples.auroc(scores, positive) == pytest.approx(resamples.means(right))
    first = resamples.auroc(scores, positive, num_resamples=70)
    assert first.shape == (2, 70)
    assert (first == resamples.auroc(scores, positive)[:, :70]).all()


def test_interval_of_auroc_is_that_of_its_large_sample_formula() -> None:
    # Hanley and McNeil 1982, for scores whose AUROC is A: Q1 = A / (2 - A), Q2 = 2 A^2 / (1 + A).
    rng = np.random.default_rng(2)
    positive = np.arange(1000) < 500
    scores = rng.exponential(size=1000) * np.where(positive, 3.0, 1.0)
    area = auroc(scores, positive.astype(int))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + 499 * (q1 - area**2) + 499 * (q2 - area**2)
    resamples = Resamples(1000, seed=0)
    found = resamples.auroc(scores[None], positive).std()
    assert found == pytest.approx(math.sqrt(variance / 500**2), rel=0.08)


def test_numbers_of_resamples_stay_paired() -> None:
    first, second = number([0.5, 0.7]), number([0.25, 0.7])
    assert ((first - second).values_R == [0.25, 0]).all()
    assert ((first / second).values_R == [2, 1]).all()
    assert math.isnan((first / constant(0.0, 2)).point)
    assert mean_over([first, second]).values_R.tolist() == [0.375, 0.7]


def test_a_median_is_taken_anew_in_every_resample() -> None:
    found = median_over([number([1.0, 5.0]), number([2.0, 2.0]), number([3.0, 1.0])])
    assert found.values_R.tolist() == [2.0, 2.0]
    assert found.point == 2.0


def test_a_median_between_infinities_is_left_out_of_the_interval() -> None:
    found = median_over([number([math.inf, 0.4]), number([-math.inf, 0.6])])
    assert found.estimate.low == found.estimate.high == 0.5


def test_slope_equals_a_hand_worked_number() -> None:
    numbers = [number([0.8, 0.9]), number([0.7, 0.9]), number([0.3, 0.9])]
    # Places -1, 0, 1 about their mean: (.3 - .8) / 2 and 0.
    found = slope([3.0, 4.0, 5.0], numbers)
    assert found.values_R == pytest.approx([-0.25, 0.0])
    assert found.values_R == pytest.approx(
        [np.polyfit([3, 4, 5], [n.values_R[r] for n in numbers], 1)[0] for r in range(2)]
    )
    with pytest.raises(ValueError, match="two different places"):
        slope([3.0, 3.0], numbers[:2])


def test_a_gap_that_reaches_zero_has_no_ratio() -> None:
    assert gap_recovered(number([0.1] * 4), number([0.2, 0.3, 0.2, -0.1])) is None
    found = gap_recovered(number([0.1, 0.2]), number([0.2, 0.4]))
    assert found is not None
    assert found.values_R.tolist() == [0.5, 0.5]


def test_p_value_is_that_of_the_normal_distribution() -> None:
    # Standard error 1 and a difference of 1.96.
    found = Resampled(1.959964, np.array([0.959964, 2.959964]), np.zeros((1, 2)))
    assert found.p_value == pytest.approx(0.05, abs=1e-6)
    assert constant(0.0).p_value == 1.0
    assert constant(0.1).p_value == 0.0


def test_p_values_of_no_difference_are_uniform() -> None:
    rng = np.random.default_rng(3)
    p_values = []
    for _ in range(150):
        scores = right(rng, 0.6, seeds=2, rows=150)
        resamples = Resamples(150, seed=0, num_resamples=300)
        weights = seed_weights(1, stream=0, seed=0, num_resamples=300)
        first, second = (
            over_seeds(s.mean(1), resamples.means(s), weights) for s in (scores[:1], scores[1:])
        )
        p_values.append((first - second).p_value)
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.11
    assert 0.4 < np.mean(np.array(p_values) < 0.5) < 0.6


def test_holm_equals_a_hand_worked_example() -> None:
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1 = .02, .03, .06, .04; none below one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_one_test_changes_nothing_and_none_exceeds_one() -> None:
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([]) == []


def test_power_of_rows_alone_follows_the_square_root() -> None:
    # Standard error .1 from rows: 2.8016 * .1 is found; a fifth of it needs 25 times the rows.
    found = number([-0.1, 0.1]).power(100, effect=0.2801585 / 5)
    assert found.detectable == pytest.approx(0.2801585)
    assert found.num_rows == pytest.approx(2500, abs=1)


def test_no_number_of_rows_makes_up_for_seeds_that_differ() -> None:
    # Variance .01 in all, of which .0001 from rows; both seeds rise and fall together with them.
    seeds_differ = number([-0.1, 0.1], rows=[[-0.01, 0.01], [-0.01, 0.01]])
    assert seeds_differ.power(100, effect=0.1).num_rows is None
    # Detectable .28; at .3 the seeds leave (.3 / 2.8016)^2 - .0099 for rows that now have .0001.
    found = seeds_differ.power(100, effect=0.3)
    assert found.num_rows == math.ceil(100 * 0.0001 / ((0.3 / 2.801585) ** 2 - 0.0099))


def test_seeds_that_differ_on_few_rows_alone_are_no_matter_of_seeds() -> None:
    rng = np.random.default_rng(5)
    scores = right(rng, 0.6, seeds=4, rows=500)  # Seeds are alike, rows are not.
    resamples = Resamples(500, seed=0)
    weights = seed_weights(4, stream=0, seed=0)
    by_seeds = over_seeds(scores.mean(1), resamples.means(scores), weights)
    assert by_seeds.power(500, effect=0.01).num_rows is not None
    drifting = scores + np.array([[0.0], [0.1], [0.2], [0.3]])
    drifts = over_seeds(drifting.mean(1), resamples.means(drifting), weights)
    assert drifts.power(500, effect=0.01).num_rows is None


def test_power_finds_an_effect_of_the_detectable_size_four_times_in_five() -> None:
    rng = np.random.default_rng(4)
    rows, num_found = 400, 0
    weights = seed_weights(1, stream=0, seed=0, num_resamples=200)
    resamples = Resamples(rows, seed=0, num_resamples=200)
    effect = 2.801585 * math.sqrt(0.2 / rows)  # One row in five differs, by one.
    for _ in range(300):
        draws = rng.random(rows)
        scores = np.where(
            draws < (0.2 + effect) / 2, 1.0, np.where(draws > 0.9 + effect / 2, -1.0, 0.0)
        )[None]
        found = over_seeds(scores.mean(1), resamples.means(scores), weights)
        num_found += found.p_value < 0.05
    assert 0.72 < num_found / 300 < 0.88
