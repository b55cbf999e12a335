"""Tables of oversight, from judges made up by hand."""

import numpy as np
import pandas as pd
import pytest

from sweeps.report import oversight
from sweeps.report.oversight import Judge, agreements, judges, rated
from sweeps.results import SweepResults
from tests.sweeps import synthetic


@pytest.fixture(scope="module")
def results() -> SweepResults:
    return synthetic.results(num_rows=60)


def frame(prob_with: list[list[float]], prob_without: float = 0.4, **more: object) -> pd.DataFrame:
    """Judges of rows whose answer is correct: one list of probabilities a replicate."""
    lines = [
        {
            "row_id": f"r{row}",
            "group": f"g{row}",
            "replicate": replicate,
            "label": 1,
            "prob_with": value,
            "prob_without": prob_without,
            "verdict": "",
            "position_a": "correct" if row % 2 else "incorrect",
            "position_last": "correct",
            "words_correct": row,
            "words_incorrect": 2,
            "model_correct": "l",
            "model_incorrect": "l",
            "control": False,
        }
        | more
        for replicate, values in enumerate(prob_with)
        for row, value in enumerate(values)
    ]
    return pd.DataFrame(lines)


def judge(lines: pd.DataFrame, method: str = "debate") -> Judge:
    return Judge("world", "xs", "l", method, method.partition("(")[0], lines)


def test_a_judge_is_scored_over_its_rows_and_replicates():
    found = judge(frame([[0.9, 0.9, 0.9, 0.2], [0.9, 0.9, 0.2, 0.2]]))
    assert (found.num_rows, found.num_replicates) == (4, 2)
    assert found.accuracy.point == 5 / 8
    assert found.unaided.point == 0
    assert found.gain.point == 5 / 8
    assert found.gain.low <= found.gain.point <= found.gain.high
    # Confidence .9 .9 .9 .8 and .9 .9 .8 .8; right 3 of 3, 0 of 1, and 2 of 2, 0 of 2.
    first, second = (3 * 0.1 + 0.8) / 4, (2 * 0.1 + 2 * 0.8) / 4
    assert found.calibration_error("with") == pytest.approx((first + second) / 2)


def test_a_win_rate_is_over_the_rows_where_it_means_something():
    lines = frame([[0.9, 0.9, 0.2, 0.9]])
    # The longer side is `incorrect` in rows 0 and 1, neither in row 2, `correct` in row 3.
    rate = judge(lines).rate("win_longer")
    assert rate is not None
    assert rate.point == pytest.approx((0 + 0 + 1) / 3)
    alone = judge(frame([[0.9, 0.2]], model_incorrect="", words_incorrect=0))
    assert alone.rate("win_dishonest") is None
    honest = alone.rate("win_honest")
    assert honest is not None
    assert honest.point == 0.5


def test_replicates_agree_beyond_chance_or_not():
    assert judge(frame([[0.9, 0.1], [0.8, 0.2]])).kappa == 1
    assert judge(frame([[0.9, 0.1], [0.2, 0.8]])).kappa == -1
    assert judge(frame([[0.9, 0.1]])).kappa is None


def test_debaters_are_rated_by_all_methods_of_one_kind_and_never_by_controls():
    groups = rated(
        [
            judge(frame([[0.9, 0.9, 0.1]]), "debate(strong)"),
            judge(frame([[0.9, 0.1]], model_incorrect="s"), "debate(s)"),
            judge(frame([[0.1] * 3], control=True), "debate(shuffled)"),
            judge(frame([[0.9]], model_incorrect="", words_incorrect=0), "consultancy"),
        ]
    )
    assert [group.judge for group in groups] == ["xs, debate"]
    counts = {(rating.model, rating.role): rating.num_rows for rating in groups[0].ratings}
    assert counts == {("l", "honest"): 5, ("l", "dishonest"): 3, ("s", "dishonest"): 2}


def test_judges_are_compared_with_themselves_unaided_and_with_each_other():
    found = agreements(
        [judge(frame([[0.9, 0.1]], prob_without=0.9)), judge(frame([[0.9, 0.9]]), "judge")]
    )
    shares = [(each.first, each.second, each.agreement.share.point) for each in found]
    assert shares == [
        ("debate, xs > l", "the same without transcripts", 0.5),
        ("judge, xs > l", "the same without transcripts", 0.0),
        ("debate, xs > l", "judge, xs > l", 0.5),
    ]


def test_each_judge_of_a_sweep_is_there_once(results: SweepResults):
    found = judges(results)
    assert [(each.task, each.method, each.num_replicates) for each in found[:4]] == [
        ("world 0", "debate", 3),
        ("world 0", "debate(weak)", 3),
        ("world 0", "debate(strong, shuffled)", 3),
        ("world 0", "debate_ensemble", 12),
    ]
    assert len(found) == 8
    assert [each.control for each in found[:3]] == [False, False, True]
    again = results.trials + tuple(
        trial.model_copy(update={"loss": "product", "trial_id": f"{number:016d}"})
        for number, trial in enumerate(results.trials)
    )
    twice = SweepResults(results.summary, again, results.rows, oversight=results.oversight)
    assert len(judges(twice)) == 8


def test_a_sweep_without_transcripts_has_no_such_section(results: SweepResults):
    bare = SweepResults(results.summary, (), results.rows.iloc[:0])
    assert judges(bare) == []
    assert oversight.all_tables(bare, [], []) == ()


def test_every_line_has_as_many_fields_as_there_are_columns(results: SweepResults):
    found = judges(results)
    made = oversight.all_tables(results, found, rated(found))
    assert [table.title for table in made] == [
        "Judges with and without transcripts",
        "Who convinces the judge",
        "Accuracy by length of the transcript",
        "Persuasiveness and truth",
        "Agreement between judges",
    ]
    for table in made:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_what_should_win_is_green_and_what_should_not_is_red():
    sure = frame([[0.9] * 30])
    table = oversight.wins_table([judge(sure)], several_tasks=False)
    assert table is not None
    tones = dict(zip(table.columns, (field.tone for field in table.rows[0]), strict=True))
    assert (tones["honest side"], tones["dishonest side"]) == ("good", "good")
    assert tones["last speaker"] == "bad"  # it defended the truth every time
    assert tones["A wins, %"] == ""
    assert np.isfinite([field.sort for field in table.rows[0] if field.sort is not None]).all()


def test_debates_about_other_rows_have_no_winners():
    shuffled = judge(frame([[0.9, 0.1]], control=True), "debate(shuffled)")
    assert oversight.wins_table([shuffled], several_tasks=False) is None
    assert len(oversight.judges_table([shuffled], several_tasks=False).rows) == 1
