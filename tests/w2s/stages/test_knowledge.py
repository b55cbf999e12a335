"""Background knowledge and critiques: who reads what, what is drawn again, what readers get."""

import json
from pathlib import Path

import pandas as pd
import pytest

from serving.backends.scripted import ScriptedTransport
from serving.debate.types import read_turns
from serving.errors import CompletionFailed
from serving.messages import Completion
from tests.w2s.stages.served import run_served, saved_model
from w2s.errors import UserError
from w2s.models.source import PretrainedModel
from w2s.stages.critique import Critique
from w2s.stages.data import PROMPTS_FILE, Prompts
from w2s.stages.knowledge import (
    DEMOS_FILE,
    FINISHED_FILE,
    QUESTIONS_FILE,
    Knowledge,
    KnowledgeDemos,
    Questions,
)
from w2s.stages.transcripts import read_transcripts
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import Task, load
from w2s.tasks.sciq import SciQ
from w2s.templates import CritiquePrompts, KnowledgePrompts
from w2s.types import SPLITS, Row, TaskData

FIXTURES = Path(__file__).parents[2] / "fixtures"
TEMPLATES = KnowledgePrompts(
    ask="Q: {row} K:", separator=" | ", demo_instruction="Teach.", stop=("Q:",), shown="[{text}]"
)


class Riddles(Task):
    """Two questions a split, each with a right and a wrong answer."""

    kind: str = "riddles"

    def load(self) -> TaskData:
        return TaskData(
            rows={
                split: [
                    Row(
                        row_id=f"{split}-{number}-{answer}",
                        group=f"{split}-{number}",
                        prompt=f"why {split} {number}? {answer}",
                        label=int(answer == "so"),
                        question=f"why {split} {number}?",
                    )
                    for number in (0, 1)
                    for answer in ("so", "no")
                ]
                for split in SPLITS
            }
        )


QUESTIONS = Questions(task=Riddles())
PROMPTS = Prompts(task=Riddles())


class Writer(ScriptedTransport):
    """Writes its replies in turn, the last one for ever."""

    def __init__(self, *replies: str) -> None:
        super().__init__(replies)
        self.seeds: list[int] = []

    async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
        found = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            reply = self.replies[min(len(self.prompts), len(self.replies) - 1)]
            self.prompts.append(prompt)
            self.seeds.append(seed)
            text = reply.partition(sampling.stop[0])[0]
            found.append(Completion(text, len(text.split()), "stop"))
        return found


@pytest.fixture
def model(tmp_path: Path) -> PretrainedModel:
    return saved_model(tmp_path / "model", num_positions=512)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The prompts and the questions of the riddles."""
    found = {}
    for stage in (QUESTIONS, PROMPTS):
        found[stage.key] = run_served_light(stage, tmp_path / stage.kind)
    return found


def run_served_light(stage: Questions | Prompts, folder: Path) -> Path:
    from w2s.stages.base import StageContext

    folder.mkdir()
    stage.run(StageContext(output_dir=folder, inputs={}))
    return folder


def demos(model: PretrainedModel, **fields: object) -> KnowledgeDemos:
    return KnowledgeDemos(model=model, questions=QUESTIONS, templates=TEMPLATES, seed=0, **fields)  # pyright: ignore[reportArgumentType]


def test_questions_are_without_the_proposed_answer(folders: dict[str, Path]) -> None:
    frame = pd.read_parquet(folders[QUESTIONS.key] / QUESTIONS_FILE)
    assert list(frame.columns) == ["split", "row_id", "group", "question"]
    assert len(frame) == 16
    assert set(frame["question"]) == {f"why {split} {i}?" for split in SPLITS for i in (0, 1)}


@pytest.mark.parametrize("task", [Almanac(), SciQ(path=str(FIXTURES / "sciq"))])
def test_the_question_of_a_row_does_not_depend_on_the_answer_it_proposes(task: Task) -> None:
    for rows in load(task).rows.values():
        for row in rows:
            assert row.question
            answer = row.prompt.removeprefix(row.question)
            assert answer != row.prompt
            assert answer.removeprefix(" A:").strip()


def test_a_row_that_proposes_nothing_is_its_own_question(tmp_path: Path) -> None:
    from w2s.tasks.boolq import BoolQ

    task = BoolQ(path=str(FIXTURES / "boolq"))
    folder = run_served_light(Questions(task=task), tmp_path / "questions")
    frame = pd.read_parquet(folder / QUESTIONS_FILE)
    prompts = {row.row_id: row.prompt for rows in load(task).rows.values() for row in rows}
    assert frame.set_index("row_id")["question"].to_dict() == prompts


def test_a_demonstration_is_drawn_again_until_it_is_a_sentence(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    writer = Writer("no end", "", "Whole.")
    stage = demos(model, number=2)
    folder = run_served(stage, folders, tmp_path / "demos", writer)
    frame = pd.read_parquet(folder / DEMOS_FILE)
    assert set(frame["question"]) == {"why strong_train 0?", "why strong_train 1?"}
    assert frame["knowledge"].tolist() == ["Whole.", "Whole."]
    assert writer.prompts[0] == f"Teach. | Q: {frame['question'][0]} K:"
    assert len(writer.prompts) == 4
    assert len(set(writer.seeds)) == 4


def test_what_never_ends_as_it_should_is_taken_and_what_stays_empty_left_out(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    writer = Writer("endless", "")
    stage = demos(model, number=2, max_attempts=1)
    folder = run_served(stage, folders, tmp_path / "demos", writer)
    assert pd.read_parquet(folder / DEMOS_FILE)["knowledge"].tolist() == ["endless"]
    with pytest.raises(UserError, match=r"wrote nothing about any of 2 questions in 8 attempts"):
        run_served(demos(model, number=2), folders, tmp_path / "none", Writer(""))


def test_the_writer_reads_questions_and_demonstrations_and_never_an_answer(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    shown = demos(model)
    folder = run_served(shown, folders, tmp_path / "demos", Writer("Sky is blue."))
    inputs = {**folders, shown.key: folder}
    stage = Knowledge(
        model=model, questions=QUESTIONS, demos=shown, templates=TEMPLATES, seed=0, num_demos=2
    )
    writer = Writer("grass is green")
    written = run_served(stage, inputs, tmp_path / "out", writer)
    # One text for each question, whose rows share it.
    assert len(writer.prompts) == 8
    assert not any("so" in text.split() or "no" in text.split() for text in writer.prompts)
    frame = read_transcripts(written)
    assert len(frame) == 16
    assert set(frame["text"]) == {"[grass is green]"}
    (turn,) = read_turns(frame["turns"].tolist()[0])
    assert (turn.text, turn.position, turn.model) == ("grass is green", "", model.name)
    both = "Q: why strong_train {} K: Sky is blue."
    of_test = next(text for text in writer.prompts if text.endswith("Q: why test 0? K:"))
    assert sorted(of_test.split(" | ")[:-1]) == [both.format("0?"), both.format("1?")]
    # A question is no demonstration for itself.
    own = next(text for text in writer.prompts if text.endswith("Q: why strong_train 0? K:"))
    assert own == f"{both.format('1?')} | Q: why strong_train 0? K:"


def test_knowledge_that_is_empty_is_written_again(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    stage = Knowledge(
        model=model, questions=QUESTIONS, templates=TEMPLATES, seed=0, splits=("test",)
    )
    writer = Writer("  ", "Q: Question", "good")
    frame = read_transcripts(run_served(stage, folders, tmp_path / "out", writer))
    assert set(frame["text"]) == {"[good]"}
    assert len(writer.prompts) == 2 + 2
    never = Writer("")
    frame = read_transcripts(run_served(stage, folders, tmp_path / "never", never))
    assert set(frame["text"]) == {"[]"}
    assert len(never.prompts) == 2 * stage.max_attempts


def test_too_long_a_prompt_loses_demonstrations_then_the_questions_beginning(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    # A question takes five words, a demonstration six and a bar more; a word is written, one free.
    model = saved_model(tmp_path / "short", num_positions=5 + 1 + 1 + 7)
    templates = TEMPLATES.model_copy(update={"max_tokens": 1})
    shown = demos(model).model_copy(update={"templates": TEMPLATES})
    folder = tmp_path / "demos"
    folder.mkdir()
    pd.DataFrame(
        {
            "row_id": ["a", "b"],
            "group": ["a", "b"],
            "question": ["one?", "why one two?"],
            "knowledge": ["K.", "K."],
        }
    ).to_parquet(folder / DEMOS_FILE)
    stage = Knowledge(
        model=model,
        questions=QUESTIONS,
        demos=shown,
        templates=templates,
        seed=0,
        splits=("test",),
    )
    writer = Writer("x")
    run_served(stage, {**folders, shown.key: folder}, tmp_path / "out", writer)
    for prompt in writer.prompts:
        assert prompt.endswith("? K:")
        assert len(prompt.split()) <= 12
        assert "why test" in prompt
    tiny = saved_model(tmp_path / "tiny", num_positions=4 + 1 + 1)
    stage = stage.model_copy(update={"model": tiny})
    writer = Writer("x")
    run_served(stage, {**folders, shown.key: folder}, tmp_path / "tiny-out", writer)
    assert writer.prompts == ["Q: test 0? K:", "Q: test 1? K:"]


def test_a_critic_reads_the_proposed_answer_too(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    templates = CritiquePrompts(ask="{row} Flaws:", stop=("|",), shown="Critic: {text}")
    stage = Critique(model=model, prompts=PROMPTS, templates=templates, seed=0, splits=("val",))
    writer = Writer("none | more")
    frame = read_transcripts(run_served(stage, folders, tmp_path / "out", writer))
    prompts = pd.read_parquet(folders[PROMPTS.key] / PROMPTS_FILE)
    own = prompts.loc[prompts["split"] == "val", "prompt"]
    assert writer.prompts == [f"{prompt} Flaws:" for prompt in own]
    assert set(frame["text"]) == {"Critic: none"}
    assert frame["row_id"].tolist() == prompts.loc[own.index, "row_id"].tolist()


def test_texts_of_another_seed_are_other_texts(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    seeds = []
    for seed in (0, 1):
        stage = Critique(
            model=model, prompts=PROMPTS, templates=CritiquePrompts(), seed=seed, splits=("val",)
        )
        writer = Writer("x")
        run_served(stage, folders, tmp_path / str(seed), writer)
        seeds += writer.seeds
    assert len(set(seeds)) == 8


def test_an_attempt_after_a_crash_writes_only_what_is_missing(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
) -> None:
    class Dies(Writer):
        async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
            if len(self.prompts) == 4:
                raise CompletionFailed("gone")
            return await super().send(prompts, sampling, seeds, timeout_s)

    stage = Knowledge(model=model, questions=QUESTIONS, templates=TEMPLATES, seed=0)
    with pytest.raises(CompletionFailed):
        run_served(stage, folders, tmp_path / "out", Dies("first"))
    second = Writer("second")
    frame = read_transcripts(run_served(stage, folders, tmp_path / "out", second))
    assert len(second.prompts) == 8 - 4
    lines = (tmp_path / "out" / FINISHED_FILE).read_text().splitlines()
    kept = [json.loads(line)["text"] for line in lines if line]
    assert kept == ["first"] * 4 + ["second"] * 4
    assert sorted(frame["text"]) == ["[first]"] * 8 + ["[second]"] * 8


@pytest.mark.parametrize("wrong", [{"ask": "no row"}, {"shown": "{text} {text}"}])
def test_templates_without_a_place_for_row_or_text_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"must have \{(row|text)\} once"):
        CritiquePrompts(**wrong)
