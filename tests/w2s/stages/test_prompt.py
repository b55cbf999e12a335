"""Prompted labels: what is asked, what comes out, and what an attempt after a crash asks again."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from serving.backends.scripted import ScriptedTransport
from serving.client import Scores
from serving.errors import CompletionFailed
from tests.w2s.stages.served import run_served, saved_model
from w2s.errors import UserError
from w2s.models.source import PretrainedModel
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import PROMPTS_FILE, Prompts
from w2s.stages.demos import Demonstrations
from w2s.stages.predictions import read_predictions, write_predictions
from w2s.stages.prompt import FINISHED_FILE, Prompted
from w2s.tasks.base import Demo, PromptTemplate, Task
from w2s.types import SPLITS, Row, TaskData

ANIMALS = {
    "train": ("cat", "dog", "cow", "hen"),
    "val": ("owl", "elk", "eel", "fox"),
    "test": ("pig", "bee", "ant", "fox"),
}
TEMPLATE = PromptTemplate(
    instruction="Is it a pet?",
    question="Q: {prompt} A:",
    labels=(" no", " yes"),
    separator=" | ",
)


class Given(Stage):
    """Stands for a stage whose files a test writes by hand."""

    tag: str


class Pets(Task):
    """A task of four rows a split; no two rows share a group, but the first two of a split."""

    kind: str = "pets"

    def load(self) -> TaskData:
        return TaskData(
            rows={
                split: [
                    Row(f"{split}-{i}", f"{split}-{max(i, 1)}", f"{animal} {split}", 0)
                    for i, animal in enumerate(ANIMALS["train" if "train" in split else split])
                ]
                for split in SPLITS
            }
        )


@pytest.fixture
def model(tmp_path: Path) -> PretrainedModel:
    return saved_model(tmp_path / "model", num_positions=512)


PROMPTS = Prompts(task=Pets())
LABELS = Given(tag="weak labels")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Prompts of the task, and weak labels of `strong_train`: yes 0.9, no 0.8, yes 0.7, no 0.6."""
    prompts, labels = tmp_path / "prompts", tmp_path / "labels"
    prompts.mkdir()
    labels.mkdir()
    rows = PROMPTS.task.load().rows
    pd.DataFrame(
        [
            {"split": split, "row_id": row.row_id, "group": row.group, "prompt": row.prompt}
            for split in rows
            for row in rows[split]
        ]
    ).to_parquet(prompts / PROMPTS_FILE)
    write_labels(labels)
    return {PROMPTS.key: prompts, LABELS.key: labels}


def write_labels(folder: Path, weights: Sequence[float] | None = None) -> None:
    """Weak labels, in another order than the rows."""
    yes = np.array([0.9, 0.2, 0.7, 0.4])
    order = [2, 0, 3, 1]
    write_predictions(
        folder,
        ["strong_train"] * 4,
        [f"strong_train-{i}" for i in order],
        np.log(np.stack([1 - yes, yes], 1))[order],
        None if weights is None else np.array(weights)[order],
    )


def run(
    stage: Prompted, folders: Mapping[str, Path], output: Path, transport: ScriptedTransport
) -> pd.DataFrame:
    return read_predictions(run_served(stage, folders, output, transport))


def prompted(model: PretrainedModel, **demos: object) -> Prompted:
    given = Demonstrations(labels=LABELS, **demos) if demos else None  # pyright: ignore
    return Prompted(model=model, prompts=PROMPTS, template=TEMPLATE, demos=given)


def asked(stage: Prompted, folders: Mapping[str, Path]) -> dict[str, str]:
    """Prompts by row."""
    queries = stage.queries(StageContext(output_dir=Path(), inputs=folders))
    return {query.row_id: query.text for query in queries}


def test_a_prompt_is_the_instruction_the_demonstrations_and_the_question():
    text = TEMPLATE.render("cat", [Demo("dog", 1), Demo("cow", 0, 0.876)])
    assert text == "Is it a pet? | Q: dog A: yes | Q: cow A: no (Confidence: 0.88) | Q: cat A:"
    assert PromptTemplate().render("a {prompt}") == "a {prompt}\nLabel:"


@pytest.mark.parametrize("wrong", [{"question": "A:"}, {"labels": (" a", " a")}])
def test_templates_without_a_place_for_the_row_or_with_equal_labels_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=r"question must have \{prompt\} once|labels must differ"):
        PromptTemplate(**wrong)


def test_zero_shot_predictions_are_the_softmax_of_the_scores(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
):
    class Table(ScriptedTransport):
        async def score(self, prompts, choices, timeout_s) -> list[Scores]:
            assert choices == (" no", " yes")
            self.prompts.extend(prompts)
            # Of what is left beside the two labels nothing counts: e^-3 to 3 e^-3 is 1 to 3.
            return [
                (-3.0, -3.0 + math.log(3)) if "fox" in text else (-1.0, -1.0) for text in prompts
            ]

    transport = Table(("-",))
    frame = run(prompted(model), folders, tmp_path / "out", transport)
    assert Counter(frame["split"]) == {"strong_train": 4, "val": 4, "test": 4}
    probabilities_NC = np.exp(frame[["logprob_0", "logprob_1"]].to_numpy())
    for row_id, probabilities_C in zip(frame["row_id"], probabilities_NC, strict=True):
        wanted = [0.25, 0.75] if row_id in ("val-3", "test-3") else [0.5, 0.5]
        assert probabilities_C.tolist() == pytest.approx(wanted)
    assert "Is it a pet? | Q: fox test A:" in transport.prompts


def test_demonstrations_are_rows_of_strong_train_with_their_weak_labels(
    model: PretrainedModel, folders: dict[str, Path]
):
    weak = {
        "Q: cat strong_train A: yes (Confidence: 0.90)",
        "Q: dog strong_train A: no (Confidence: 0.80)",
        "Q: cow strong_train A: yes (Confidence: 0.70)",
        "Q: hen strong_train A: no (Confidence: 0.60)",
    }
    found = asked(prompted(model, number=4, show_confidence=True), folders)
    instruction, *shown, question = found["test-0"].split(" | ")
    assert (instruction, question) == ("Is it a pet?", "Q: pig test A:")
    assert set(shown) == weak
    without = asked(prompted(model, number=4), folders)["test-0"]
    assert set(without.split(" | ")[1:-1]) == {text.partition(" (")[0] for text in weak}


def test_a_row_is_no_demonstration_for_itself_or_for_its_group(
    model: PretrainedModel, folders: dict[str, Path]
):
    for selection in ("random", "nearest"):
        found = asked(prompted(model, number=4, selection=selection), folders)
        # Rows 0 and 1 are of one group.
        for row in ("strong_train-0", "strong_train-1"):
            shown = found[row].split(" | ")[1:-1]
            assert {text.split()[1] for text in shown} == {"cow", "hen"}
        assert found["strong_train-2"].count("cow") == 1


def test_rows_that_selection_left_out_are_not_shown(
    model: PretrainedModel, folders: dict[str, Path]
):
    write_labels(folders[LABELS.key], weights=[1.0, 0.0, 2.0, 0.0])
    found = asked(prompted(model, number=4), folders)
    assert all("dog strong_train A: " not in text for text in found.values())
    assert {text.split()[1] for text in found["test-0"].split(" | ")[1:-1]} == {"cat", "cow"}


def test_nearest_demonstrations_by_features_are_joined_by_row_id(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
):
    features = Given(tag="features")
    folder = tmp_path / "features"
    folder.mkdir()
    rows = [(split, row.row_id) for split, part in Pets().load().rows.items() for row in part]
    rows.reverse()
    # A test row is like the strong_train row with its number.
    vectors = np.stack([np.eye(4)[int(row_id[-1])] for _, row_id in rows])
    save_file({"features": vectors}, folder / "features.safetensors")
    pd.DataFrame(rows, columns=["split", "row_id"]).to_parquet(folder / "index.parquet")
    stage = prompted(model, number=1, selection="nearest", neighbours=features)
    found = asked(stage, {**folders, features.key: folder})
    shown = [found[f"test-{i}"].split(" | ")[1].split()[1] for i in range(4)]
    assert shown == ["cat", "dog", "cow", "hen"]


def test_an_attempt_after_a_crash_asks_only_for_what_is_missing(
    model: PretrainedModel, folders: dict[str, Path], tmp_path: Path
):
    class Dies(ScriptedTransport):
        async def score(self, prompts, choices, timeout_s) -> list[Scores]:
            if len(self.prompts) == 6:
                raise CompletionFailed("gone")
            return await super().score(prompts, choices, timeout_s)

    stage, output = prompted(model, number=2), tmp_path / "out"
    with pytest.raises(CompletionFailed):
        run(stage, folders, output, Dies(("-",)))
    with (output / FINISHED_FILE).open("a") as file:
        file.write('{"row_id": "test-0", "sco')
    second = ScriptedTransport(("-",))
    frame = run(stage, folders, output, second)
    assert len(second.prompts) == 12 - 6
    whole = run(stage, folders, tmp_path / "whole", ScriptedTransport(("-",)))
    pd.testing.assert_frame_equal(frame, whole)

    def kept(folder: Path) -> list[dict]:
        lines = (folder / FINISHED_FILE).read_text().splitlines()
        whole = [line for line in lines if line.endswith("}")]
        return sorted(map(json.loads, whole), key=lambda row: row["row_id"])

    assert kept(output) == kept(tmp_path / "whole")
    assert all(len(row["demos"]) == 2 for row in kept(output))


def test_a_prompt_that_is_too_long_loses_demonstrations_and_never_the_question(
    model: PretrainedModel,
    folders: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    whole = asked(prompted(model, number=4), folders)["test-0"]
    # Four words of the instruction, six of each demonstration and its separator, five of the
    # question, one of the label: room for two demonstrations, and one token that is kept free.
    short = saved_model(tmp_path / "short", num_positions=4 + 2 * 6 + 5 + 1 + 1)
    with caplog.at_level("WARNING"):
        found = asked(prompted(short, number=4), folders)["test-0"]
    head, *shown, question = found.split(" | ")
    assert (head, question) == ("Is it a pet?", "Q: pig test A:")
    assert shown == whole.split(" | ")[3:-1]
    assert "of 12 prompts 10 lost demonstrations and 0 the beginning of their text" in caplog.text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("one two three four five six", "five six"),
        # Words of uneven length: cut again until it fits.
        ("averylongwordatthebeginning b c d e f", "e f"),
        ("short", "short"),
    ],
)
def test_a_row_that_is_too_long_alone_loses_words_at_its_beginning(
    folders: dict[str, Path], tmp_path: Path, text: str, kept: str
):
    frame = pd.read_parquet(folders[PROMPTS.key] / PROMPTS_FILE).assign(prompt=text)
    frame.to_parquet(folders[PROMPTS.key] / PROMPTS_FILE)
    # The instruction, two words of the row with the words around it, a label, one token kept free.
    short = saved_model(tmp_path / "short", num_positions=4 + 5 + 1 + 1)
    found = asked(prompted(short, number=4), folders)
    assert set(found.values()) == {f"Is it a pet? | Q: {kept} A:"}


def test_an_instruction_that_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path):
    tiny = saved_model(tmp_path / "tiny", num_positions=8)
    with pytest.raises(UserError, match=r"the instruction and a label take 8 tokens.*reads 7"):
        asked(prompted(tiny), folders)


def test_a_template_needs_one_label_a_class(model: PretrainedModel, folders: dict[str, Path]):
    three = TEMPLATE.model_copy(update={"labels": (" a", " b", " c")})
    stage = prompted(model).model_copy(update={"template": three})
    with pytest.raises(UserError, match=r"3 labels for 2 classes"):
        asked(stage, folders)
