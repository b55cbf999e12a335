"""What a task is: rows in four disjoint splits, and how its questions are debated.

A task knows its rows, how a transcript is put into a prompt, and the prompts of its debaters.
Adding a task is adding one file here whose name is its `kind`.
"""

from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import TypeVar, cast

from serving.debate.prompts import DebatePrompts
from w2s.errors import UserError
from w2s.spec import Spec
from w2s.types import SPLITS, Split, TaskData


class Task(Spec):
    """A classification task with ground truth."""

    kind: str
    """Name of the task family: the name of its file."""

    @property
    def label(self) -> str:
        """Short name in tables and figures."""
        return self.kind

    @property
    def num_classes(self) -> int:
        """Number of classes of the label."""
        return 2

    def fingerprint(self) -> str:
        """Digest of data outside this spec (files, revision); empty when the fields say it all."""
        return ""

    def load(self) -> TaskData:
        """Read the rows: the four splits are disjoint by group, ids are stable, `test` is balanced.

        Raises:
            UserError: the data cannot be found, lacks a column, or leaves a split empty.
        """
        raise NotImplementedError

    def debate_prompts(self) -> DebatePrompts:
        """Templates with which debaters argue about a row's prompt."""
        return DebatePrompts()

    def with_transcript(self, prompt: str, transcript: str) -> str:
        """The input of a model that reads a debate: the prompt, then the transcript."""
        return f"{prompt}\n\n{transcript}"

    def mask_transcript(self, transcript: str) -> str:
        """The transcript without its content words: what is left is style.

        Content words become type markers; words that are equal stay recognisably equal (the marker
        is numbered in order of appearance), so a classifier over the masked text sees words,
        positions and equalities only.
        """
        raise NotImplementedError(f"task {self.kind!r} does not say what style is")

    def permute_values(self, transcript: str, rng: Random) -> str:
        """The transcript with its values consistently exchanged: same style, no evidence."""
        raise NotImplementedError(f"task {self.kind!r} has no values to permute")


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
