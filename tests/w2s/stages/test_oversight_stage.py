"""A judge with and without transcripts, joined by row."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.w2s.stages.given import Artifacts, Given
from w2s.stages.judge import VERDICTS_FILE
from w2s.stages.oversight import (
    Oversight,
    read_overseen,
    read_oversight,
)
from w2s.stages.transcripts import TRANSCRIPTS_FILE


def turn(side: str, position: str, text: str, model: str = "strong", **more: object) -> dict:
    return {"side": side, "position": position, "text": text, "model_digest": model} | more


TURNS = {
    "t1": [
        turn("A", "incorrect", "one two three"),
        turn("judge", "", "why is that so", "weak"),
        turn("B", "correct", "four five", thinking="a long and hidden thought"),
        turn("A", "incorrect", "six"),
    ],
    "t0": [turn("A", "correct", "only me here")],
    "v0": [],
}


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def transcripts(artifacts: Artifacts) -> Given:
    stage = Given(tag="transcripts")
    frame = pd.DataFrame(
        {
            "split": ["test", "val", "test", "strong_train"],
            "row_id": ["t1", "v0", "t0", "s0"],
            "text": "as a model reads it",
            "turns": [json.dumps(TURNS.get(row, [])) for row in ("t1", "v0", "t0", "s0")],
        }
    )
    frame.to_parquet(artifacts.place(stage) / TRANSCRIPTS_FILE)
    return stage


def oversight(artifacts: Artifacts, judged: Given, unaided: Given) -> Oversight:
    return Oversight(
        transcripts=transcripts(artifacts),
        judged=judged,
        unaided=unaided,
        truths=(
            artifacts.truth("val", {"v0": 1}),
            artifacts.truth("test", {"t0": 0, "t1": 1}),
        ),
        prompts=artifacts.prompts([("val", "v0", ""), ("test", "t1", ""), ("test", "t0", "")]),
    )


def predictions(artifacts: Artifacts, tag: str, t0: float, t1: float, v0: float = 0.5) -> Given:
    rows = {"t1": t1, "v0": v0, "t0": t0}
    return artifacts.predictions(
        tag,
        [("val" if row == "v0" else "test", row, (1 - p, p)) for row, p in rows.items()],
    )


def test_rows_are_joined_by_their_ids_whatever_the_order(artifacts: Artifacts):
    stage = oversight(
        artifacts,
        predictions(artifacts, "with", t0=0.2, t1=0.9),
        predictions(artifacts, "without", t0=0.6, t1=0.7),
    )
    folder = artifacts.run(stage)
    frame = read_overseen(folder).set_index("row_id")
    assert list(frame.index) == ["v0", "t0", "t1"]
    assert frame["prob_with"].tolist() == pytest.approx([0.5, 0.2, 0.9])
    assert frame["prob_without"].tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert frame["label"].tolist() == [1, 0, 1]
    test = read_oversight(folder)["test"]
    assert test["judge_accuracy"] == 1
    assert test["judge_gain"] == 0.5


def test_words_and_speakers_are_counted_by_what_they_defend(artifacts: Artifacts):
    judge = predictions(artifacts, "with", t0=0.2, t1=0.9)
    frame = read_overseen(artifacts.run(oversight(artifacts, judge, judge))).set_index("row_id")
    both = frame.loc["t1"]
    assert (both["words_incorrect"], both["words_correct"]) == (4, 2)  # thoughts are not counted
    assert (both["position_a"], both["position_last"]) == ("incorrect", "incorrect")
    assert (both["model_correct"], both["model_incorrect"]) == ("strong", "strong")
    alone = frame.loc["t0"]
    assert (alone["model_correct"], alone["model_incorrect"]) == ("strong", "")
    nothing = frame.loc["v0"]
    assert (nothing["position_a"], nothing["words_correct"]) == ("", 0)


def test_verdicts_are_taken_from_a_judge_that_gives_them(artifacts: Artifacts):
    judge = predictions(artifacts, "with", t0=0.5, t1=0.9)
    pd.DataFrame(
        {"split": "test", "row_id": ["t1", "t0"], "verdict": ["correct", "INVALID"], "text": ""}
    ).to_parquet(artifacts.inputs[judge.key] / VERDICTS_FILE)
    folder = artifacts.run(oversight(artifacts, judge, judge))
    frame = read_overseen(folder).set_index("row_id")
    assert frame["verdict"].to_dict() == {"v0": "", "t0": "INVALID", "t1": "correct"}
    assert read_oversight(folder)["test"]["invalid_rate"] == 0.5


def test_a_judge_that_leaves_rows_out_is_an_error(artifacts: Artifacts):
    judge = artifacts.predictions("some", [("test", "t1", (0.1, 0.9)), ("val", "v0", (0.1, 0.9))])
    other = predictions(artifacts, "without", t0=0.5, t1=0.9)
    with pytest.raises(ValueError, match="no prediction for 1 rows"):
        artifacts.run(oversight(artifacts, judge, other))
