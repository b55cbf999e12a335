"""Stages that turn a task into files: prompts without labels, and ground truth one split at a time.

`Prompts` is what every model of a sweep reads; `GroundTruth` holds the labels of one split. They
are apart so that a stage which must not know the truth is never handed it.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from w2s.spec import OneOf
from w2s.stages.base import Stage, StageContext
from w2s.tasks.base import Task, load
from w2s.types import SPLITS, Split

PROMPTS_FILE = "prompts.parquet"
LABELS_FILE = "labels.parquet"
NOTES_FILE = "notes.json"


class Prompts(Stage):
    """The prompts of all four splits, without labels."""

    task: OneOf[Task]
    """The task whose rows are written."""
    data: str = ""
    """Fingerprint of the task's data outside its spec."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"prompts-{self.task.kind}"

    def run(self, context: StageContext) -> None:
        """Write `prompts.parquet` (split, row_id, group, prompt[, options]) and the notes."""
        data = load(self.task)
        rows = [(split, row) for split in SPLITS for row in data.rows[split]]
        columns: dict[str, list[Any]] = {
            "split": [split for split, _ in rows],
            "row_id": [row.row_id for _, row in rows],
            "group": [row.group for _, row in rows],
            "prompt": [row.prompt for _, row in rows],
        }
        if any(row.options for _, row in rows):
            columns["options"] = [list(row.options) for _, row in rows]
        frame = pd.DataFrame(columns)
        frame.to_parquet(context.output_dir / PROMPTS_FILE, index=False)
        (context.output_dir / NOTES_FILE).write_text(json.dumps(data.notes, indent=1))


class GroundTruth(Stage):
    """The labels of one split."""

    task: OneOf[Task]
    """The task whose labels are written."""
    split: Split
    """The one split whose labels this holds."""
    data: str = ""
    """Fingerprint of the task's data outside its spec."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"truth-{self.task.kind}-{self.split}"

    def run(self, context: StageContext) -> None:
        """Write `labels.parquet` (split, row_id, label)."""
        rows = load(self.task).rows[self.split]
        frame = pd.DataFrame(
            {
                "split": [self.split] * len(rows),
                "row_id": [row.row_id for row in rows],
                "label": [row.label for row in rows],
            }
        )
        frame.to_parquet(context.output_dir / LABELS_FILE, index=False)


def read_prompts(folder: Path, split: Split | None = None) -> pd.DataFrame:
    """The prompts artifact in file order: split, row_id, group, prompt."""
    frame = pd.read_parquet(folder / PROMPTS_FILE)
    return frame if split is None else _split(frame, split)


def read_truth(folder: Path) -> pd.DataFrame:
    """A ground-truth artifact: split, row_id, label."""
    return pd.read_parquet(folder / LABELS_FILE)


def _split(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    part: Any = frame[frame["split"] == split]
    return part.reset_index(drop=True)
