"""The text of the tasks themselves as a corpus: a small ladder for real tasks, from nothing.

Models read the prompts of the training rows of every task of the sweep, each text of a choice among
texts by itself, without any label: of a question with its answers they read the right and the wrong
ones alike. Rows of `val` and `test` are never read, nor is a training text that equals one of them.
"""

from typing import Literal, Self

from w2s.corpora._packed import PackedText, Reading
from w2s.errors import UserError
from w2s.spec import OneOf, digest
from w2s.tasks.base import Task, load
from w2s.types import Row, Split

READ: tuple[Split, ...] = ("weak_train", "strong_train")
HELD_OUT: tuple[Split, ...] = ("val", "test")


class TaskReading(Reading):
    """Texts of the training rows of some tasks."""

    tasks: tuple[OneOf[Task], ...]
    """Whose rows are read."""

    def documents(self) -> tuple[str, ...]:
        """The distinct texts, without those that are also held out by any of the tasks."""
        held_out = {text for task in self.tasks for text in _texts(task, HELD_OUT)}
        texts = dict.fromkeys(text for task in self.tasks for text in _texts(task, READ))
        return tuple(text for text in texts if text not in held_out)


class TaskCorpus(PackedText):
    """Packed text of the training rows of the sweep's tasks, read up to a budget of tokens."""

    kind: Literal["task"] = "task"
    tasks: tuple[OneOf[Task], ...] = ()
    """Whose rows are read; empty: all tasks of the sweep, which then share one ladder."""

    def bind(self, task: Task, tasks: tuple[Task, ...] = ()) -> Self:
        """The corpus over all tasks of the sweep, unless it names its own."""
        return self if self.tasks else self.model_copy(update={"tasks": tasks or (task,)})

    def fingerprint(self) -> str:
        """Digest of the data of all tasks."""
        return digest([task.fingerprint() for task in self.tasks])

    def reading(self) -> TaskReading:
        """The training rows of the tasks.

        Raises:
            UserError: the corpus was not bound to tasks.
        """
        if not self.tasks:
            raise UserError("the corpus 'task' names no task; give it `tasks`")
        return TaskReading(tasks=self.tasks)


def _texts(task: Task, splits: tuple[Split, ...]) -> list[str]:
    rows = load(task).rows
    return [text for split in splits for row in rows[split] for text in _of_row(row)]


def _of_row(row: Row) -> tuple[str, ...]:
    return row.options or (row.prompt,)
