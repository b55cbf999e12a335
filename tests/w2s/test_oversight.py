"""Wins, gains and ratings of debaters, against numbers worked by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from w2s.oversight import (
    bradley_terry,
    by_length,
    judge_agreement,
    outcomes,
    ratings,
    summarise,
)


def line(
    label: int,
    prob_with: float,
    *,
    prob_without: float = 0.5,
    a: str = "correct",
    last: str = "",
    words: tuple[int, int] = (5, 5),
    models: tuple[str, str] = ("l", "l"),
    verdict: str = "",
    **more: Any,
) -> dict[str, object]:
    return {
        "label": label,
        "prob_with": prob_with,
        "prob_without": prob_without,
        "position_a": a,
        "position_last": last or a,
        "words_correct": words[0],
        "words_incorrect": words[1],
        "model_correct": models[0],
        "model_incorrect": models[1],
        "verdict": verdict,
        **more,
    }


def test_the_side_that_the_judge_finds_more_probable_wins():
    won = outcomes(
        pd.DataFrame(
            [
                line(1, 0.9, a="correct"),  # A is honest and wins
                line(1, 0.2, a="correct"),  # A is honest and loses
                line(0, 0.9, a="correct"),  # A is dishonest and wins
                line(0, 0.9, a="incorrect", last="correct"),  # A is honest and loses to the last
                line(1, 0.5, a="correct"),  # a tie
            ]
        )
    )
    assert won["win_a"].tolist() == [1, 0, 1, 0, 0.5]
    assert won["win_last"].tolist() == [1, 0, 1, 1, 0.5]
    assert won["win_honest"].tolist() == [1, 0, 0, 0, 0.5]
    assert won["win_dishonest"].tolist() == [0, 1, 1, 1, 0.5]
    assert won["right_with"].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_array_equal(won["win_a_honest"], [1, 0, np.nan, 0, 0.5])
    np.testing.assert_array_equal(won["win_a_dishonest"], [np.nan, np.nan, 1, np.nan, np.nan])


def test_a_consultant_alone_wins_or_loses_in_its_own_role_only():
    alone = {"a": "correct", "words": (7, 0), "models": ("l", "")}
    won = outcomes(pd.DataFrame([line(1, 0.9, **alone), line(0, 0.8, **alone)]))
    np.testing.assert_array_equal(won["win_honest"], [1, np.nan])
    np.testing.assert_array_equal(won["win_dishonest"], [np.nan, 1])
    np.testing.assert_array_equal(won["win_longer"], [np.nan, np.nan])


def test_the_longer_side_is_known_where_both_spoke_and_one_said_more():
    won = outcomes(
        pd.DataFrame(
            [line(1, 0.9, words=(9, 3)), line(1, 0.9, words=(3, 9)), line(1, 0.9, words=(3, 3))]
        )
    )
    np.testing.assert_array_equal(won["win_longer"], [1, 0, np.nan])


def test_the_summary_of_four_rows():
    found = summarise(
        pd.DataFrame(
            [
                line(1, 0.9, prob_without=0.4, a="correct", words=(4, 2)),
                line(1, 0.7, prob_without=0.6, a="incorrect", words=(4, 2)),
                line(0, 0.6, prob_without=0.3, a="correct", words=(4, 2)),
                line(0, 0.5, prob_without=0.9, a="incorrect", words=(4, 2), verdict="INVALID"),
            ]
        )
    )
    assert found["num_rows"] == 4
    assert found["judge_accuracy"] == 0.75  # at 0.5 the judge says `incorrect`, which is right
    assert found["unaided_accuracy"] == 0.5
    assert found["judge_gain"] == 0.25
    assert found["win_rate_a"] == (1 + 0 + 1 + 0.5) / 4
    assert found["win_rate_a_honest"] == (1 + 0.5) / 2
    assert found["win_rate_a_dishonest"] == (0 + 1) / 2
    assert found["win_rate_honest"] == (1 + 1 + 0 + 0.5) / 4
    assert found["win_rate_longer"] == (1 + 1 + 1 + 0.5) / 4
    assert (found["words_honest"], found["words_dishonest"]) == (3, 3)
    assert found["invalid_rate"] == 0.25
    # (0.1**2 + 0.3**2 + 0.6**2 + 0.5**2) * 2 / 4
    assert found["brier_with"] == pytest.approx(0.355)


def test_rows_without_arguments_have_an_accuracy_but_no_winners():
    silent = {"a": "", "words": (0, 0), "models": ("", "")}
    found = summarise(pd.DataFrame([line(1, 0.9, **silent), line(0, 0.2, **silent)]))
    assert found["judge_accuracy"] == 1
    assert not [name for name in found if name.startswith("win_rate")]
    assert "invalid_rate" not in found


def test_two_debaters_are_apart_by_the_logarithm_of_their_odds():
    # 3 wins to 1: odds of 3, 400 * log10(3) = 190.85 points apart, around 0.
    rated = bradley_terry(np.array([[[0.0, 3.0], [1.0, 0.0]]]))[0]
    assert rated[0] - rated[1] == pytest.approx(400 * math.log10(3))
    assert rated.sum() == pytest.approx(0, abs=1e-9)


def test_ratings_are_carried_over_a_common_opponent():
    # i beats j 2:1, j beats k 4:1; i and k never met.
    wins = np.array([[[0, 2, 0], [1, 0, 4], [0, 1, 0]]], dtype=float)
    rated = bradley_terry(wins)[0]
    assert rated[0] - rated[1] == pytest.approx(400 * math.log10(2))
    assert rated[0] - rated[2] == pytest.approx(400 * math.log10(8))


def test_groups_that_never_met_are_each_centred():
    wins = np.zeros((1, 4, 4))
    wins[0, 0, 1], wins[0, 1, 0] = 10, 1
    wins[0, 2, 3], wins[0, 3, 2] = 1, 1
    rated = bradley_terry(wins)[0]
    assert rated[:2].sum() == pytest.approx(0, abs=1e-9)
    assert rated[0] == pytest.approx(200)  # 400 points are odds of 10
    assert rated[2:] == pytest.approx([0, 0], abs=1e-9)


def games(num_honest: int, num_dishonest: int, **more: Any) -> list[dict[str, object]]:
    rows = [line(1, 0.9, **more)] * num_honest + [line(1, 0.1, **more)] * num_dishonest
    return [row | {"group": str(i), "replicate": "0"} for i, row in enumerate(rows)]


def test_self_play_rates_a_model_as_honest_and_as_dishonest():
    found = ratings(pd.DataFrame(games(30, 10)), seed=0)
    assert [(r.model, r.role, r.num_rows, r.group) for r in found] == [
        ("l", "honest", 40, 0),
        ("l", "dishonest", 40, 0),
    ]
    # One drawn game is added: (30 + 0.5) to (10 + 0.5).
    apart = 400 * math.log10(30.5 / 10.5)
    assert found[0].elo.point == pytest.approx(apart / 2)
    assert found[1].elo.point == pytest.approx(-apart / 2)
    assert 0 < found[0].elo.low < found[0].elo.point < found[0].elo.high


def test_a_debater_that_always_wins_has_a_finite_rating():
    found = ratings(pd.DataFrame(games(20, 0)), seed=0)
    assert found[0].elo.point - found[1].elo.point == pytest.approx(400 * math.log10(20.5 / 0.5))


def test_cross_play_rates_all_models_on_one_scale():
    rows = [
        *games(30, 10, models=("l", "s")),  # honest l against dishonest s
        *games(10, 30, models=("s", "l")),  # honest s against dishonest l
        *games(20, 20, models=("l", "l")),
    ]
    for number, row in enumerate(rows):
        row["group"] = str(number)
    found = {(r.model, r.role): r for r in ratings(pd.DataFrame(rows), seed=0)}
    assert {r.group for r in found.values()} == {0}
    assert found["l", "honest"].elo.point > found["s", "honest"].elo.point
    assert found["l", "dishonest"].elo.point > found["s", "dishonest"].elo.point
    assert found["l", "honest"].num_rows == 80


def test_nobody_is_rated_where_nobody_was_opposed():
    frame = pd.DataFrame(games(3, 1, models=("l", "")))
    assert ratings(frame, seed=0) == []


def test_quarters_of_the_rows_by_the_length_of_their_transcripts():
    rows = [line(1, 0.9 if n > 4 else 0.1, words=(n, n)) for n in range(1, 9)]
    parts = by_length(pd.DataFrame(rows))
    assert [part.words for part in parts] == [3, 7, 11, 15]
    assert [part.right.mean() for part in parts] == [0, 0, 1, 1]


def test_transcripts_of_one_length_are_one_part():
    parts = by_length(pd.DataFrame([line(1, 0.9)] * 8))
    assert [(part.words, len(part.right)) for part in parts] == [(10, 8)]


def test_judges_agree_by_what_they_find_more_probable():
    found = judge_agreement(
        np.array([0.9, 0.8, 0.2, 0.1]), np.array([0.6, 0.3, 0.4, 0.2]), seed=0, groups=list("abcd")
    )
    assert found.share.point == 0.75
    # Chance: 0.5 * 0.25 + 0.5 * 0.75 = 0.5.
    assert found.kappa == pytest.approx(0.5)
