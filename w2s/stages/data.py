"""Stages that turn a task into files: prompts without labels, and ground truth one split at a time.

`Prompts` is what every model of a sweep reads; `GroundTruth` holds the labels of one split. They
are apart so that a stage which must not know the truth is never handed it.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd

from w2s.errors import UserError
from w2s.spec import OneOf
from w2s.stages.base import Stage, StageContext
from w2s.tasks.base import Task
from w2s.types import SPLITS, Split, TaskData

PROMPTS_FILE = "prompts.parquet"
LABELS_FILE = "labels.parquet"
NOTES_FILE = "notes.json"


R = TypeVar("R")


def _once(function: Callable[[Task], R]) -> Callable[[Task], R]:
    """`lru_cache` that keeps the signature: type checkers do not see that a spec has a hash."""
    return cast("Callable[[Task], R]", lru_cache(maxsize=8)(function))


@_once
def load(task: Task) -> TaskData:
    """The rows of a task, read once a process.

    Raises:
        UserError: a split is empty, an id occurs twice, or a group is in two splits.
    """
    data = task.load()
    seen: dict[str, Split] = {}
    groups: dict[str, Split] = {}
    for split in SPLITS:
        if not data.rows.get(split):
            raise UserError(
                f"task {task.kind!r} leaves the split {split!r} empty; give it more rows"
            )
        for row in data.rows[split]:
            if row.row_id in seen:
                raise UserError(
                    f"task {task.kind!r}: row {row.row_id} is in {seen[row.row_id]} and {split}"
                )
            seen[row.row_id] = split
            if groups.setdefault(row.group, split) != split:
                raise UserError(
                    f"task {task.kind!r}: group {row.group!r} is in {groups[row.group]} and {split}"
                )
    return data


@_once
def mean_tokens(task: Task) -> float:
    """A rough number of tokens a prompt has, from its length."""
    rows = load(task).rows["test"]
    return max(4.0, sum(len(row.prompt) for row in rows) / len(rows) / 4)


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
