"""Difficulty: the smallest rung from which on all are right, and a fixed number of easy rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.w2s.stages.given import Artifacts
from w2s.errors import UserError
from w2s.stages.difficulty import Difficulty, EasyLabels, difficulties, read_difficulty


@pytest.fixture
def given(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def test_a_row_is_as_hard_as_the_first_rung_from_which_all_are_right() -> None:
    right_KN = np.array(
        # all right; only the largest; the middle fails; the largest fails; none; first fails
        [
            [1, 0, 1, 1, 0, 0],
            [1, 0, 0, 1, 0, 1],
            [1, 1, 1, 0, 0, 1],
        ],
        dtype=bool,
    )
    assert difficulties(right_KN).tolist() == [0, 2, 2, 3, 3, 1]


def rungs(given: Artifacts) -> tuple[Difficulty, dict[str, int]]:
    """Two rungs; a and b are of difficulty 0, c of 1, d of 2; e of test is of 1."""
    right, wrong = (0.1, 0.9), (0.9, 0.1)
    small = given.predictions(
        "small",
        [
            ("strong_train", "a", right),
            ("strong_train", "b", right),
            ("strong_train", "c", wrong),
            ("strong_train", "d", right),
            ("test", "e", wrong),
        ],
    )
    large = given.predictions(
        "large",
        [
            ("test", "e", right),
            ("strong_train", "d", wrong),
            ("strong_train", "c", right),
            ("strong_train", "b", right),
            ("strong_train", "a", right),
        ],
    )
    truths = (
        given.truth("strong_train", {"c": 1, "a": 1, "d": 1, "b": 1}),
        given.truth("test", {"e": 1}),
    )
    return Difficulty(predictions=(small, large), truths=truths), {"a": 0, "b": 0, "c": 1, "d": 2}


def test_difficulty_is_joined_by_row_id(given: Artifacts) -> None:
    stage, expected = rungs(given)
    frame = read_difficulty(given.run(stage))
    assert frame.set_index("row_id")["difficulty"].to_dict() == expected | {"e": 1}
    assert frame.set_index("row_id")["split"].to_dict() == dict.fromkeys("abcd", "strong_train") | {
        "e": "test"
    }


WEAK = [("strong_train", row_id, (0.3, 0.7)) for row_id in "dcba"] + [("val", "v", (0.5, 0.5))]


def test_as_many_rows_are_learnt_at_every_difficulty(given: Artifacts) -> None:
    stage, expected = rungs(given)
    given.run(stage)
    weak = given.predictions("weak", WEAK)
    learnt: list[set[str]] = []
    for hardest in (0, 1, 2):
        labels = given.labels(
            EasyLabels(labels=weak, difficulty=stage, max_difficulty=hardest, seed=hardest)
        )
        kept = {i for i, w in zip(labels.row_ids, labels.train_weights_N, strict=True) if w}
        assert len(kept) == 2
        assert all(expected[row_id] <= hardest for row_id in kept)
        learnt.append(kept)
    assert learnt[0] == {"a", "b"}


def test_too_few_easy_rows_are_refused(given: Artifacts) -> None:
    stage, _ = rungs(given)
    given.run(stage)
    weak = given.predictions("weak", WEAK)
    easy = EasyLabels(labels=weak, difficulty=stage, max_difficulty=1, num_rows=4, seed=0)
    with pytest.raises(UserError, match="4 rows are to be learnt, and 3 of 4 have a difficulty"):
        given.run(easy)


def test_a_ladder_on_which_no_row_is_easy_says_so(given: Artifacts) -> None:
    wrong = [("strong_train", "a", (0.9, 0.1)), ("strong_train", "b", (0.8, 0.2))]
    stage = Difficulty(
        predictions=(given.predictions("one", wrong), given.predictions("two", wrong)),
        truths=(given.truth("strong_train", {"a": 1, "b": 1}),),
    )
    assert set(pd.read_parquet(given.run(stage) / "difficulty.parquet")["difficulty"]) == {2}
    easy = EasyLabels(
        labels=given.predictions("weak", wrong), difficulty=stage, max_difficulty=1, seed=0
    )
    with pytest.raises(UserError, match="0 rows are to be learnt, and 0 of 2"):
        given.run(easy)
