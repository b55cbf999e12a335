"""What is taken from the store for people: judges and the transcripts they read."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from sweeps import collect
from sweeps.pooled import pooled_oversight
from sweeps.results import SeedKeys, TrialResult
from tests.w2s.stages.given import MODEL, Artifacts, Given
from w2s.stages.models import model_key
from w2s.stages.oversight import Oversight
from w2s.stages.transcripts import TRANSCRIPTS_FILE, ShuffledTranscripts

ROWS = [f"r{number:02d}" for number in range(20)]


class Sweep:
    """A sweep of one method whose supervisors read debates, as `collect` sees it."""

    def __init__(self, folder: Path) -> None:
        self.artifacts = Artifacts(folder)
        self.prompts = self.artifacts.prompts(
            [("test", row, f"Q: {row}?") for row in ROWS] + [("val", "v", "Q: v?")]
        )
        self.truths = (
            self.artifacts.truth("val", {"v": 1}),
            self.artifacts.truth("test", {row: index % 2 for index, row in enumerate(ROWS)}),
        )
        self.unaided = self.predictions("unaided", 0.25)
        self.trials: list[TrialResult] = []
        self.entries: dict[str, Any] = {}
        self.planner = cast(Any, SimpleNamespace(models=[{"l": MODEL}], speakers={}))
        self.store = cast(
            Any, SimpleNamespace(local=lambda stage: self.artifacts.inputs[stage.key])
        )

    @property
    def book(self) -> Any:
        return SimpleNamespace(entries=self.entries)

    def predictions(self, tag: str, probability: float) -> Given:
        rows = [("test", row) for row in ROWS] + [("val", "v")]
        return self.artifacts.predictions(
            tag, [(split, row, (1 - probability, probability)) for split, row in rows]
        )

    def transcripts(self, stage: Given | ShuffledTranscripts, text: str = "because") -> None:
        turn = {
            "side": "A",
            "position": "correct",
            "text": text,
            "num_tokens": 1,
            "finish_reason": "stop",
            "seed": 0,
            "model": "a long name",
            "model_digest": model_key(MODEL),
            "round": 0,
            "thinking": "hm",
            "candidates": [],
        }
        frame = pd.DataFrame({"split": "test", "row_id": ROWS[::-1]})
        frame.loc[len(frame)] = ["val", "v"]
        frame = frame.assign(text=f"A: {text}", turns=json.dumps([turn]))
        frame.to_parquet(self.artifacts.place(stage) / TRANSCRIPTS_FILE)

    def judge(self, tag: str, probability: float, *, shuffled: bool = False) -> Oversight:
        transcripts = Given(tag=f"debate {tag}")
        read = ShuffledTranscripts(transcripts=transcripts, seed=0) if shuffled else transcripts
        self.transcripts(read)
        stage = Oversight(
            transcripts=read,
            judged=self.predictions(f"judge {tag}", probability),
            unaided=self.unaided,
            truths=self.truths,
            prompts=self.prompts,
        )
        self.artifacts.run(stage)
        return stage

    def trial(self, name: str, *judges: Oversight, loss: str = "xent") -> None:
        trial = name.rjust(16, "0")
        keys = tuple(
            SeedKeys(
                seed=seed,
                floor="f",
                supervisor="s",
                student="t",
                ceiling="c",
                oversight=(judge.key,),
            )
            for seed, judge in enumerate(judges)
        )
        self.trials.append(
            TrialResult(
                trial_id=trial,
                block="methods",
                task="world",
                weak="xs",
                strong="l",
                method="debate",
                method_kind="debate",
                loss=loss,
                keys=keys,
            )
        )
        roles = {seed: SimpleNamespace(oversight=(judge,)) for seed, judge in enumerate(judges)}
        self.entries[trial] = SimpleNamespace(roles=roles)

    def kept(self, number: int) -> Any:
        return collect._transcripts(self.planner, self.store, self.book, self.trials, number)


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_examples_have_what_was_asked_said_and_judged(sweep: Sweep):
    sweep.trial("a", sweep.judge("0", 0.75))
    found = sweep.kept(100)
    assert [(each.num_shown, each.num_made) for each in found.counts] == [(20, 20)]
    example = next(each for each in found.examples if each.row_id == "r03")
    assert example.question == "Q: r03?"
    assert example.label == 1
    assert (example.prob_with, example.prob_without) == pytest.approx((0.75, 0.25))
    (turn,) = example.turns
    assert (turn.model, turn.text, turn.thinking) == ("l", "because", "hm")
    assert example.text == ""
    assert {each.row_id for each in found.examples} == set(ROWS)  # val is not shown


def test_a_sample_is_drawn_over_all_seeds_and_is_the_same_again(sweep: Sweep):
    sweep.trial("a", sweep.judge("0", 0.75), sweep.judge("1", 0.25))
    found = sweep.kept(10)
    assert [(each.num_shown, each.num_made) for each in found.counts] == [(10, 40)]
    assert {each.seed for each in found.examples} == {0, 1}
    assert sweep.kept(10) == found
    assert set(found.examples) <= set(sweep.kept(20).examples)


def test_a_judge_that_several_trials_share_is_there_once(sweep: Sweep):
    judge = sweep.judge("0", 0.75)
    sweep.trial("a", judge)
    sweep.trial("b", judge, loss="product")
    found = sweep.kept(100)
    assert len(found.counts) == 1
    assert {each.trial_id for each in found.examples} == {"a".rjust(16, "0")}
    overseen = collect._overseen(sweep.planner, sweep.store, sweep.book, sweep.trials)
    pooled = pooled_oversight(overseen)
    assert len(pooled) == len(ROWS)
    assert set(pooled["model_correct"]) == {"l"}
    assert set(pooled["control"]) == {False}


def test_shuffled_debates_are_a_control(sweep: Sweep):
    sweep.trial("a", sweep.judge("0", 0.75, shuffled=True))
    overseen = collect._overseen(sweep.planner, sweep.store, sweep.book, sweep.trials)
    assert set(pooled_oversight(overseen)["control"]) == {True}


def test_no_transcripts_are_kept_where_none_are_wanted(sweep: Sweep):
    sweep.trial("a", sweep.judge("0", 0.75))
    found = sweep.kept(0)
    assert found.examples == ()
    assert [(each.num_shown, each.num_made) for each in found.counts] == [(0, 20)]
