"""Methods in order, against numbers worked by hand."""

import math

import pytest

from sweeps.report import analyses
from sweeps.report.load import Board
from sweeps.report.ranking import ranking
from sweeps.results import SeedKeys, TrialResult
from tests.sweeps import synthetic
from tests.sweeps.report.test_scoring import board, frame, right, trial
from w2s.statistics import holm

NUM_ROWS = 40


def of_pair(strong: str, student: str, **changes) -> TrialResult:
    """A trial of one pair; floors and ceilings are those of all pairs."""
    keys = SeedKeys(seed=0, floor="floor", supervisor="floor", student=student, ceiling="ceiling")
    return trial(f"{strong} {student}", strong=strong, keys=(keys,), **changes)


def made(*trials: TrialResult, **num_right: int) -> Board:
    frames = {
        key: frame(right([i < count for i in range(NUM_ROWS)]))
        for key, count in {"floor": 20, "ceiling": 40, **num_right}.items()
    }
    return board(list(trials), **frames)


def test_each_method_is_held_against_the_plain_student_on_the_pairs_they_share() -> None:
    found = ranking(
        made(
            of_pair("m", "plain_m"),
            of_pair("l", "plain_l"),
            of_pair("l", "debated_l", method="debate", block="methods"),
            of_pair("m", "product_m", loss="product", block="losses"),
            of_pair("l", "product_l", loss="product", block="losses"),
            plain_m=24,
            plain_l=28,
            debated_l=36,
            product_m=22,
            product_l=22,
        )
    )
    by_name = {(line.method, line.loss): line for line in found}
    assert [(line.method, line.loss) for line in found] == [
        ("debate", "xent"),
        ("naive", "xent"),
        ("naive", "product"),
    ]
    assert [line.rank for line in found] == [1, 2, 3]
    debate, plain = by_name["debate", "xent"], by_name["naive", "xent"]
    product = by_name["naive", "product"]
    # Debate only on xs > l: .9 against .7; product on both: .55 against the mean of .6 and .7.
    assert debate.gain.point == pytest.approx(0.2)
    assert (debate.num_pairs, debate.supervisor.point, debate.student.point) == (1, 0.5, 0.9)
    assert product.gain.point == pytest.approx(0.55 - 0.65)
    assert product.num_pairs == 2
    assert product.num_rows == NUM_ROWS  # The same test rows under both pairs.
    assert product.pgr is not None
    assert product.pgr.point == pytest.approx(0.1)
    assert (plain.gain.point, plain.p_value, plain.adjusted) == (0, None, None)


def test_p_values_are_corrected_for_the_number_of_lines() -> None:
    found = ranking(
        made(
            of_pair("l", "plain"),
            of_pair("l", "better", loss="confidence"),
            of_pair("l", "same", loss="entropy"),
            of_pair("l", "worse", loss="product"),
            plain=28,
            better=36,
            same=28,
            worse=26,
        )
    )
    tested = [line for line in found if line.p_value is not None]
    p_values = [line.p_value or 0.0 for line in tested]
    assert [line.adjusted for line in tested] == pytest.approx(holm(p_values))
    by_loss = {line.loss: line for line in found}
    # Eight rows of forty differ, all one way: standard error sqrt(.2 * .8 / 40).
    better, same = by_loss["confidence"], by_loss["entropy"]
    assert better.p_value is not None
    expected = math.erfc(0.2 / math.sqrt(0.2 * 0.8 / NUM_ROWS) / math.sqrt(2))
    assert math.log10(better.p_value) == pytest.approx(math.log10(expected), abs=0.3)
    assert same.p_value == 1.0


def test_a_block_that_repeats_the_plain_students_is_no_line_of_its_own() -> None:
    found = ranking(
        made(
            of_pair("l", "plain"),
            of_pair("l", "plain", block="losses"),
            of_pair("l", "better", loss="confidence", block="losses"),
            plain=28,
            better=36,
        )
    )
    assert [(line.block, line.loss) for line in found] == [
        ("losses", "confidence"),
        ("pairs", "xent"),
    ]


def test_equal_models_are_no_pair_of_the_ranking() -> None:
    equal = of_pair("l", "plain").model_copy(update={"weak": "l"})
    assert ranking(made(equal, plain=28)) == []


def test_a_method_that_has_no_plain_student_beside_it_is_not_ranked() -> None:
    found = ranking(
        made(of_pair("m", "plain"), of_pair("l", "other", method="debate"), plain=28, other=30)
    )
    assert [line.method for line in found] == ["naive"]
    assert analyses.ranking_table(found, 0.01) is None


def test_the_table_names_the_reference_and_colours_what_survives_the_correction() -> None:
    found = ranking(Board(synthetic.results(num_rows=300, tasks=("world 0",))))
    table = analyses.ranking_table(found, 0.01)
    assert table is not None
    by_method = {(row[2].text, row[3].text): row for row in table.rows}
    gain = table.columns.index("gain over naive xent, points")
    assert by_method["naive", "xent"][gain].text == "reference"
    assert by_method["debate_ensemble", "xent"][gain].tone == "good"
    assert by_method["style_only", "xent"][gain].tone == "bad"
    assert "could be missed" in table.note
