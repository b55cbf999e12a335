"""Scores, misfit and checkpoints on files written by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from w2s.stages.base import Stage, StageContext
from w2s.stages.checkpoints import (
    CHECKPOINTS_FILE,
    CHOICES,
    TRAINING_FILE,
    read_compared,
    read_training,
)
from w2s.stages.data import LABELS_FILE, PROMPTS_FILE, GroundTruth, Prompts
from w2s.stages.evaluate import Evaluate, read_evaluation, read_rows
from w2s.stages.predictions import write_predictions
from w2s.tasks.almanac import Almanac
from w2s.types import Split

TASK = Almanac()
TRUTHS: dict[Split, list[int]] = {"val": [0, 1], "test": [0, 0, 1, 1]}


class Model(Stage):
    """Stands for a trained model whose files a test writes."""

    tag: str


def ids(split: Any) -> list[str]:
    return [f"{split}-{i}" for i in range(len(TRUTHS[split]))]


class Files:
    """Folders of the stages that an evaluation reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: dict[str, Path] = {}
        self.prompts = Prompts(task=TASK)
        folder = self.folder(self.prompts)
        rows = [(split, row_id) for split in TRUTHS for row_id in ids(split)]
        frame = pd.DataFrame(rows, columns=["split", "row_id"])
        frame.assign(group=frame["row_id"], prompt="?").to_parquet(folder / PROMPTS_FILE)
        self.truths = tuple(GroundTruth(task=TASK, split=split) for split in TRUTHS)
        for truth in self.truths:
            table = {"split": truth.split, "row_id": ids(truth.split), "label": TRUTHS[truth.split]}
            pd.DataFrame(table).to_parquet(self.folder(truth) / LABELS_FILE)

    def folder(self, stage: Stage) -> Path:
        path = self.root / stage.key
        path.mkdir(parents=True)
        self.paths[stage.key] = path
        return path

    def model(self, tag: str, **probabilities: list[float]) -> Model:
        """A model with these probabilities of class 1, in reverse order of rows, by split."""
        model = Model(tag=tag)
        splits = [split for split, values in probabilities.items() for _ in values]
        row_ids = [
            row for split, values in probabilities.items() for row in ids(split)[: len(values)]
        ]
        p1 = np.array([p for values in probabilities.values() for p in values])
        logprobs_NC = np.log(np.stack([1 - p1, p1], axis=1))
        write_predictions(self.folder(model), splits[::-1], row_ids[::-1], logprobs_NC[::-1])
        return model

    def evaluate(self, model: Model, supervisor: Model | None = None) -> Path:
        stage = Evaluate(
            predictions=model, truths=self.truths, prompts=self.prompts, supervisor=supervisor
        )
        output = self.folder(stage)
        stage.run(StageContext(output_dir=output, inputs=self.paths))
        return output


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_every_metric_of_a_student_is_there(files: Files) -> None:
    supervisor = files.model("weak", val=[0.4, 0.6], test=[0.3, 0.8, 0.2, 0.9])
    student = files.model("student", val=[0.4, 0.6], test=[0.1, 0.4, 0.2, 0.9])
    found = read_evaluation(files.evaluate(student, supervisor))["test"]
    # Right on rows 0, 1 and 3; the supervisor on 0 and 3; they differ on row 1 alone.
    assert (found["num_rows"], found["accuracy"], found["balanced_accuracy"]) == (4, 0.75, 0.75)
    assert found["auroc"] == 0.75  # Of the pairs only (.2, .4) is the wrong way round.
    assert found["brier"] == pytest.approx(2 * (0.01 + 0.16 + 0.64 + 0.01) / 4)
    assert found["log_loss"] == pytest.approx(
        -(math.log(0.9) + math.log(0.6) + math.log(0.2) + math.log(0.9)) / 4
    )
    assert (found["agreement"], found["agreement_where_right"]) == (0.75, 1.0)
    assert found["agreement_where_wrong"] == 0.5
    assert found["misfit_squared"] == pytest.approx(2 * (0.2**2 + 0.4**2) / 4)
    divergence = 0.3 * math.log(3) + 0.7 * math.log(7 / 9)
    divergence += 0.8 * math.log(2) + 0.2 * math.log(1 / 3)
    assert found["misfit_divergence"] == pytest.approx(divergence / 4)


def test_a_model_without_a_supervisor_has_no_misfit(files: Files) -> None:
    found = read_evaluation(files.evaluate(files.model("m", val=[0.4, 0.6], test=[0.1] * 4)))
    assert not {"agreement", "misfit_squared"} & set(found["test"])


def test_a_supervisor_that_leaves_a_split_out_is_compared_on_the_others(files: Files) -> None:
    supervisor = files.model("weak", test=[0.3, 0.8, 0.2, 0.9])
    student = files.model("student", val=[0.4, 0.6], test=[0.1, 0.4, 0.2, 0.9])
    found = read_evaluation(files.evaluate(student, supervisor))
    assert "agreement" in found["test"]
    assert "agreement" not in found["val"]


def test_a_supervisor_of_part_of_a_split_is_refused(files: Files) -> None:
    supervisor = files.model("weak", test=[0.3, 0.8])
    student = files.model("student", val=[0.4, 0.6], test=[0.1, 0.4, 0.2, 0.9])
    with pytest.raises(ValueError, match=r"no prediction for 50\.0% of test"):
        files.evaluate(student, supervisor)


def test_a_prediction_is_joined_by_its_row_and_a_missing_one_is_an_error(files: Files) -> None:
    model = files.model("m", val=[0.4, 0.6], test=[0.1, 0.4, 0.2, 0.9])
    rows = read_rows(files.evaluate(model))
    test = rows[rows["split"] == "test"].set_index("row_id")["prob_1"]
    assert test[ids("test")].tolist() == pytest.approx([0.1, 0.4, 0.2, 0.9])
    with pytest.raises(ValueError, match="1 rows have a label but no prediction"):
        files.evaluate(files.model("short", val=[0.4], test=[0.1, 0.4, 0.2, 0.9]))


def with_checkpoints(
    files: Files, steps: dict[int, tuple[list[float], list[float]]], training: dict[str, int | None]
) -> Model:
    """A student with probabilities of class 1 on `val` and `test` at each step."""
    student = files.model("student", val=[0.4, 0.6], test=[0.1, 0.4, 0.2, 0.9])
    lines = [
        {
            "step": step,
            "epoch": step / 10,
            "split": split,
            "row_id": row_id,
            "logprob_0": math.log(1 - p),
            "logprob_1": math.log(p),
        }
        for step, (val, test) in steps.items()
        for split, values in (("val", val), ("test", test))
        for row_id, p in zip(ids(split)[: len(values)], values, strict=True)
    ]
    folder = files.paths[student.key]
    pd.DataFrame(lines).to_parquet(folder / CHECKPOINTS_FILE)
    (folder / TRAINING_FILE).write_text(json.dumps(training))
    return student


STEPS = {
    10: ([0.6, 0.4], [0.1, 0.2, 0.8, 0.9]),  # Against both weak labels; all four right on test.
    20: ([0.4, 0.4], [0.1, 0.2, 0.8, 0.1]),
    30: ([0.4, 0.6], [0.1, 0.8, 0.2, 0.9]),  # As the weak labels say; two right.
}


def test_three_choices_come_from_one_run(files: Files) -> None:
    supervisor = files.model("weak", val=[0.1, 0.9], test=[0.3, 0.8, 0.2, 0.9])
    student = with_checkpoints(files, STEPS, {"best_val_step": 20, "last_step": 30})
    output = files.evaluate(student, supervisor)
    compared = read_compared(output)
    assert compared is not None
    assert [c.test_accuracy for c in compared.curve] == [1.0, 0.75, 0.5]
    assert [c.val_agreement for c in compared.curve] == [0.0, 0.5, 1.0]
    assert [c.epoch for c in compared.curve] == [1.0, 2.0, 3.0]
    # What training chose stands, whatever agreement says.
    assert compared.steps == {"last": 30, "best_val": 20, "oracle": 10}
    assert [compared.test_accuracy(choice) for choice in CHOICES] == [0.5, 0.75, 1.0]
    assert read_training(output)["last_step"] == 30


def test_without_a_choice_of_its_own_a_run_is_stopped_at_the_best_agreement(files: Files) -> None:
    supervisor = files.model("weak", val=[0.1, 0.1], test=[0.3, 0.8, 0.2, 0.9])
    student = with_checkpoints(files, STEPS, {"best_val_step": None})
    compared = read_compared(files.evaluate(student, supervisor))
    assert compared is not None
    assert compared.steps["best_val"] == 20


def test_a_run_without_weak_labels_of_val_has_no_best_on_val(files: Files) -> None:
    compared = read_compared(files.evaluate(with_checkpoints(files, STEPS, {})))
    assert compared is not None
    assert compared.test_accuracy("best_val") is None
    assert compared.curve[0].val_agreement is None


def test_equal_checkpoints_are_told_apart_by_being_earlier(files: Files) -> None:
    same = ([0.4, 0.6], [0.1, 0.8, 0.2, 0.9])
    student = with_checkpoints(files, {5: same, 6: same}, {})
    supervisor = files.model("weak", val=[0.1, 0.9], test=[0.3, 0.8, 0.2, 0.9])
    compared = read_compared(files.evaluate(student, supervisor))
    assert compared is not None
    assert compared.steps == {"last": 6, "best_val": 5, "oracle": 5}


def test_a_checkpoint_that_lacks_a_row_is_refused(files: Files) -> None:
    student = with_checkpoints(files, {5: ([0.4, 0.6], [0.1, 0.8, 0.2])}, {})
    with pytest.raises(ValueError, match="step 5 has predictions for 3 of 4 rows of test"):
        files.evaluate(student)


def test_a_model_without_checkpoints_leaves_no_comparison(files: Files) -> None:
    model = files.model("m", val=[0.4, 0.6], test=[0.1, 0.4, 0.2, 0.9])
    assert read_compared(files.evaluate(model)) is None
    assert read_training(files.paths[model.key]) == {}
