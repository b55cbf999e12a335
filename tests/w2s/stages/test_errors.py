"""Synthetic supervisors: errors of a chosen number and place, and labels stated in the prompt."""

from pathlib import Path

import numpy as np
import pytest

from tests.w2s.stages.given import TASK, Artifacts
from w2s.stages.errors import Errors, SyntheticErrors, corrupted, highest
from w2s.stages.imitation import StatedLabels
from w2s.stages.transcripts import read_transcripts


@pytest.fixture
def given(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def test_the_highest_share_is_exact_and_ties_are_drawn() -> None:
    values = np.array([3.0, 1.0, 2.0, 5.0])
    chosen = highest(values, 0.5, np.random.default_rng(0))
    assert chosen.tolist() == [True, False, False, True]
    draws = {
        tuple(highest(np.zeros(6), 0.5, np.random.default_rng(seed)).tolist()) for seed in range(20)
    }
    assert {sum(draw) for draw in draws} == {3}
    assert len(draws) > 5


def test_a_wrong_label_is_another_class_each_equally_likely() -> None:
    labels = np.arange(3000) % 3
    wrong = np.arange(3000) % 2 == 0
    made = corrupted(labels, wrong, 3, np.random.default_rng(0))
    assert (made[~wrong] == labels[~wrong]).all()
    assert (made[wrong] != labels[wrong]).all()
    assert np.bincount((made - labels)[wrong] % 3, minlength=3)[1:] == pytest.approx(750, abs=80)


# Lengths 2, 6, 4, 8; the weak supervisor is wrong on two of four; the reference is surest of b.
WEAK = [
    ("strong_train", "a", (0.9, 0.1)),
    ("strong_train", "b", (0.1, 0.9)),
    ("strong_train", "c", (0.3, 0.7)),
    ("strong_train", "d", (0.4, 0.6)),
    ("val", "v", (0.3, 0.7)),
]
TRUTH = {"a": 0, "b": 0, "c": 1, "d": 0}
PROMPTS = [
    ("strong_train", "a", "xx"),
    ("strong_train", "b", "xxxxxx"),
    ("strong_train", "c", "xxxx"),
    ("strong_train", "d", "xxxxxxxx"),
    ("val", "v", "x"),
]
REFERENCE = [
    ("strong_train", "d", (0.45, 0.55)),
    ("strong_train", "c", (0.6, 0.4)),
    ("strong_train", "b", (0.95, 0.05)),
    ("strong_train", "a", (0.8, 0.2)),
]


@pytest.mark.parametrize(
    ("errors", "wrong"),
    [
        ("longest", {"b", "d"}),
        ("shortest", {"a", "c"}),
        ("hardest", {"c", "d"}),
        ("easiest", {"a", "b"}),
    ],
)
def test_errors_lie_where_they_are_asked_for_as_many_as_the_supervisor_makes(
    given: Artifacts, errors: Errors, wrong: set[str]
) -> None:
    made = given.labels(
        SyntheticErrors(
            labels=given.predictions("weak", WEAK),
            truth=given.truth("strong_train", TRUTH),
            prompts=given.prompts(PROMPTS),
            reference=given.predictions("reference", REFERENCE),
            errors=errors,
            seed=0,
        )
    )
    classes = dict(zip(made.row_ids, made.probabilities_NC.argmax(1).tolist(), strict=True))
    assert {row_id for row_id in classes if classes[row_id] != TRUTH[row_id]} == wrong
    np.testing.assert_allclose(made.probabilities_NC.max(1), 1.0)


@pytest.mark.parametrize(("rate", "number"), [(0.25, 1), (1.0, 4), (0.0, 0)])
def test_a_rate_takes_the_place_of_the_supervisors(
    given: Artifacts, rate: float, number: int
) -> None:
    made = given.labels(
        SyntheticErrors(
            labels=given.predictions("weak", WEAK),
            truth=given.truth("strong_train", TRUTH),
            prompts=given.prompts(PROMPTS),
            errors="random",
            rate=rate,
            seed=0,
        )
    )
    truth = [TRUTH[row_id] for row_id in made.row_ids]
    assert (made.probabilities_NC.argmax(1) != truth).sum() == number


def test_a_stated_label_is_that_of_the_row_and_rows_without_one_get_no_sentence(
    given: Artifacts,
) -> None:
    prompts = given.prompts([("weak_train", "w", "?"), *PROMPTS])
    folder = given.run(
        StatedLabels(
            labels=given.predictions("weak", WEAK),
            prompts=prompts,
            template="I think this is {label}.",
        )
    )
    texts = read_transcripts(folder).set_index("row_id")["text"].to_dict()
    assert texts == {
        "w": "",
        "a": "I think this is 0.",
        "b": "I think this is 1.",
        "c": "I think this is 1.",
        "d": "I think this is 1.",
        "v": "I think this is 1.",
    }
    assert TASK.with_transcript("Q", texts["a"]) == "Q I think this is 0."
