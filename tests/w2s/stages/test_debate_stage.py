"""The debates that a method asks for, and what the stage leaves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from serving.backends.scripted import ScriptedTransport
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.protocols.consultancy import Consultancy
from serving.debate.protocols.market_making import MarketMaking
from serving.debate.protocols.sequential import Sequential
from serving.debate.protocols.simultaneous import Simultaneous
from tests.w2s.stages.served import run_served, saved_model
from w2s.errors import UserError
from w2s.losses.xent import Xent
from w2s.models.source import PretrainedModel
from w2s.spec import available, parse
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import Prompts
from w2s.stages.predictions import write_predictions
from w2s.stages.setup import Setup
from w2s.stages.tokens import Tokens, read_tokens
from w2s.stages.transcripts import read_transcripts
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import Task, load
from w2s.training.config import TrainConfig
from w2s.types import SPLITS, Row, Split, TaskData


class Stories(Task):
    """Questions about a story each."""

    kind: Literal["stories"] = "stories"
    num_classes_told: int = 2

    @property
    def num_classes(self) -> int:
        return self.num_classes_told

    def load(self) -> TaskData:
        rows: dict[Split, list[Row]] = {
            split: [
                Row(
                    row_id=f"{split}{number}",
                    group=f"{split}{number}",
                    prompt=f"Once there was fox {number} of {split}.\n\nQ: Who?\nA: fox {number}",
                    label=number % 2,
                )
                for number in range(4)
            ]
            for split in SPLITS
        }
        return TaskData(rows)


class Predicted(Stage):
    """Stands for a stage that leaves predictions."""


REPLIES = ("it was", "it was not <quote>there was fox</quote>", "who knows")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PretrainedModel]:
    return {
        name: saved_model(tmp_path_factory.mktemp(name), 1000 + number)
        for number, name in enumerate(("xs", "m", "l"))
    }


def setup(models: dict[str, PretrainedModel], **changes: Any) -> Setup:
    here = Setup(
        task=Stories(),
        data="",
        weak=models["xs"],
        strong=models["l"],
        ladder=models,
        loss=Xent(),
        supervisor_train=TrainConfig(),
        student_train=TrainConfig(),
        ceiling_train=TrainConfig(),
        protocol=Sequential(),
        seed=0,
    )
    return replace(here, **changes)


def held(folder: Path, picks: dict[str, float]) -> Path:
    """Predictions with a probability of class 1 a row."""
    folder.mkdir(exist_ok=True)
    yes_N = np.array(list(picks.values()))
    splits = [row_id.rstrip("0123456789") for row_id in picks]
    write_predictions(folder, splits, list(picks), np.log(np.stack([1 - yes_N, yes_N], axis=1)))
    return folder


def debated(stage: Stage, tmp_path: Path, **given: Path) -> tuple[pd.DataFrame, list[str]]:
    """The transcripts artifact, and every prompt that was sent."""
    folders = {Prompts(task=Stories()).key: tmp_path / "prompts", **given}
    (tmp_path / "prompts").mkdir(exist_ok=True)
    Prompts(task=Stories()).run(StageContext(tmp_path / "prompts", {}))
    transport = ScriptedTransport(REPLIES)
    run_served(stage, folders, tmp_path / "out", transport)
    return read_transcripts(tmp_path / "out"), transport.prompts


@pytest.mark.parametrize("kind", available(DebateProtocol))
def test_every_protocol_leaves_a_transcript_of_every_row(
    kind: str, models: dict[str, PretrainedModel], tmp_path: Path
) -> None:
    protocol = parse(DebateProtocol, {"kind": kind, "best_of": 2})
    picks = {row.row_id: 0.9 for split in SPLITS for row in load(Stories()).rows[split]}
    against = Predicted()
    stage = setup(models).debate(models["l"], protocol=protocol, against=against)
    frame, _ = debated(stage, tmp_path, **{against.key: held(tmp_path / "held", picks)})
    assert frame["row_id"].tolist() == list(picks)
    for text, turns in zip(frame["text"], map(json.loads, frame["turns"]), strict=True):
        assert len(turns) == len(protocol.slots())
        assert all(turn["text"] in text for turn in turns)


def test_market_making_argues_against_the_predictions_joined_by_id(
    models: dict[str, PretrainedModel], tmp_path: Path
) -> None:
    rows = [row.row_id for split in reversed(SPLITS) for row in load(Stories()).rows[split]]
    picks = {row_id: 0.7 if row_id.endswith(("0", "3")) else 0.3 for row_id in rows}
    against = Predicted()
    stage = setup(models).debate(models["l"], protocol=MarketMaking(), against=against)
    frame, _ = debated(stage, tmp_path, **{against.key: held(tmp_path / "held", picks)})
    argued = {
        row_id: json.loads(turns)[0]["position"]
        for row_id, turns in zip(frame["row_id"], frame["turns"], strict=True)
    }
    assert argued == {
        row_id: "incorrect" if held > 0.5 else "correct" for row_id, held in picks.items()
    }


def test_a_hidden_passage_is_read_by_debaters_and_by_nobody_else(
    models: dict[str, PretrainedModel], tmp_path: Path
) -> None:
    protocol = Simultaneous(
        num_rounds=2, judge_questions=True, best_of=2, hide_passage=True, verify_quotes=True
    )
    here = setup(models)
    stage = here.debate(models["l"], judge=models["m"], protocol=protocol)
    frame, sent = debated(stage, tmp_path)
    asked_judge = [text for text in sent if "A judge has" in text]
    asked_debaters = [text for text in sent if "A judge has" not in text]
    assert asked_judge
    assert all("Once there was" in text for text in asked_debaters)
    assert not any("Once there was" in text for text in asked_judge)
    assert all("Q: Who?\nA: fox" in text for text in asked_judge)
    assert frame["prompt"].iloc[2] == "Q: Who?\nA: fox 2"
    assert frame["text"].str.contains("<v_quote>there was fox</v_quote>").any()

    tokens = Tokens(model=models["xs"], prompts=here.prompts, transcripts=stage)
    folders = {here.prompts.key: tmp_path / "prompts", stage.key: tmp_path / "out"}
    (tmp_path / "tokens").mkdir()
    tokens.run(StageContext(tmp_path / "tokens", folders))
    lengths = [
        len(f"{prompt} {text}".split())
        for prompt, text in zip(frame["prompt"], frame["text"], strict=True)
    ]
    assert read_tokens(tmp_path / "tokens").rows.lengths.tolist() == lengths


def test_an_open_debate_says_what_was_chosen(
    models: dict[str, PretrainedModel], tmp_path: Path
) -> None:
    class Sure(ScriptedTransport):
        async def score(self, prompts, choices, timeout_s):
            return [(-1.0, -2.0) if "fox 1" in prompt else (-2.0, -1.0) for prompt in prompts]

    stage = setup(models).debate(models["l"], protocol=Consultancy(open=True))
    debated(stage, tmp_path)
    folders = {stage.prompts.key: tmp_path / "prompts"}
    (tmp_path / "again").mkdir()
    run_served(stage, folders, tmp_path / "again", Sure(REPLIES))
    frame = read_transcripts(tmp_path / "again")
    for row_id, chosen, turns in zip(frame["row_id"], frame["chosen"], frame["turns"], strict=True):
        assert chosen == ("correct" if row_id.endswith("1") else "incorrect")
        assert json.loads(turns)[0]["position"] == chosen


def test_who_takes_no_part_changes_no_debate(models: dict[str, PretrainedModel]) -> None:
    here = setup(models)
    plain = here.debate(models["l"])
    assert here.debate(models["l"], judge=models["m"]).key == plain.key
    assert here.debate(models["l"], opponent=models["l"]).key == plain.key
    assert here.debate(models["l"], against=Predicted()).key == plain.key
    alone = here.debate(models["l"], protocol=Consultancy())
    assert here.debate(models["l"], opponent=models["m"], protocol=Consultancy()).key == alone.key
    assert here.debate(models["l"], opponent=models["m"]).key != plain.key
    judged = here.debate(models["l"], protocol=Sequential(best_of=2))
    assert judged.judge == models["xs"]
    other = here.debate(models["l"], judge=models["m"], protocol=Sequential(best_of=2))
    assert other.key != judged.key
    assert other.served_models == (models["l"], models["m"])


def test_templates_of_the_sweep_take_the_place_of_the_task_s(
    models: dict[str, PretrainedModel],
) -> None:
    own = DebatePrompts(task="Here is a story.")
    assert setup(models, templates=own).debate(models["l"]).templates == own
    assert setup(models).debate(models["l"]).templates == DebatePrompts()


@pytest.mark.parametrize(
    ("task", "protocol", "message"),
    [
        (Stories(num_classes_told=3), Sequential(), "has 3 classes"),
        (Stories(), MarketMaking(), "this method has no picks; use the method 'market_making'"),
        (Almanac(), Sequential(judge_questions=True), "task 'almanac': .*no `ask`"),
        (Almanac(), Sequential(hide_passage=True), "questions of task 'almanac' are not about a"),
    ],
)
def test_what_a_protocol_lacks_is_said_while_planning(
    task: Task, protocol: DebateProtocol, message: str, models: dict[str, PretrainedModel]
) -> None:
    with pytest.raises(UserError, match=message):
        setup(models, task=task).debate(models["l"], protocol=protocol)


@pytest.mark.parametrize("role", ["debater", "opponent", "judge"])
def test_an_encoder_takes_no_part_in_a_debate(
    role: str, models: dict[str, PretrainedModel], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    encoder = PretrainedModel(path=str(tmp_path), fingerprint="encoder")
    cast: dict[str, Any] = {"debater": models["l"], role: encoder}
    protocol = Sequential(judge_questions=True)
    with pytest.raises(UserError, match=f"the {role} of a debate"):
        setup(models).debate(cast.pop("debater"), protocol=protocol, **cast)
