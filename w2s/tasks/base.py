"""What a task is: rows in four disjoint splits, and how its questions are debated and prompted.

A task knows its rows, how a transcript is put into a prompt, the prompts of its debaters, and how a
language model is asked for a label (`PromptTemplate`). Adding a task is adding one file here whose
name is its `kind`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple, Self, TypeVar, cast

from pydantic import Field, model_validator

from serving.debate.prompts import DebatePrompts
from w2s.errors import UserError
from w2s.spec import Spec
from w2s.templates import CritiquePrompts, JudgePrompts, KnowledgePrompts
from w2s.types import SPLITS, Split, TaskData


class Demo(NamedTuple):
    """A row that is shown with a label."""

    prompt: str
    """Text of the row."""
    label: int
    """Class it is shown with."""
    confidence: float | None = None
    """Probability of that class, to be shown beside it; None: not shown."""


class PromptTemplate(Spec):
    """What a language model reads when it is asked for a row's label in context."""

    instruction: str = ""
    """What the inputs are and what to answer; stands before everything, unless empty."""
    question: str = "{prompt}\nLabel:"
    """How a row is put, with `{prompt}` for its text; a label follows at its end."""
    labels: tuple[str, ...] = Field(default=(" 0", " 1"), min_length=2)
    """Text of each class's label, with its leading space."""
    separator: str = "\n\n"
    """Between instruction, demonstrations and question."""

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        if self.question.count("{prompt}") != 1:
            raise ValueError(f"question must have {{prompt}} once; found {self.question!r}")
        if len(set(self.labels)) < len(self.labels) or not all(map(str.strip, self.labels)):
            raise ValueError(f"labels must differ and not be empty; found {self.labels!r}")
        return self

    def render(self, prompt: str, demos: Sequence[Demo] = ()) -> str:
        """The whole text; the label that comes next is the answer."""
        shown = [self._put(demo.prompt) + self._answer(demo) for demo in demos]
        head = [self.instruction] if self.instruction else []
        return self.separator.join([*head, *shown, self._put(prompt)])

    def _put(self, prompt: str) -> str:
        return self.question.replace("{prompt}", prompt)

    def _answer(self, demo: Demo) -> str:
        sure = "" if demo.confidence is None else f" (Confidence: {demo.confidence:.2f})"
        return self.labels[demo.label] + sure


class Task(Spec):
    """A classification task with ground truth."""

    kind: str
    """Name of the task family: the name of its file."""

    @property
    def title(self) -> str:
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

    @property
    def proposes_answers(self) -> bool:
        """Whether a row is a question with a proposed answer, which is correct (1) or not (0)."""
        names = self.debate_prompts()
        return (names.correct_name, names.incorrect_name) == ("correct", "incorrect")

    def debate_prompts(self) -> DebatePrompts:
        """Templates with which debaters argue about a row's prompt."""
        return DebatePrompts()

    def prompt_template(self) -> PromptTemplate:
        """How a language model is asked for a row's label in context."""
        last = self.num_classes - 1
        return PromptTemplate(
            instruction=f"Each input is followed by its label, a number from 0 to {last}. "
            "Give the label of the last input.",
            labels=tuple(f" {label}" for label in range(self.num_classes)),
        )

    def judge_prompts(self) -> JudgePrompts:
        """How a judge is asked about a row and what was said about it: for the same label words.

        A written verdict is on the proposed answer; where rows propose none, it is a label word.
        """
        asked = self.prompt_template()
        prompts = JudgePrompts(
            instruction=asked.instruction,
            closing="Label:" if asked.instruction else "Answer:",
            labels=asked.labels,
        )
        if self.proposes_answers:
            return prompts
        words = [label.strip() for label in asked.labels]
        lines = " or ".join(f"`Answer: {word}`" for word in words)
        return JudgePrompts(
            **{
                **dict(prompts),
                "verdict_closing": f"What is the answer? Give it in one line, {lines}.\n",
                "verdict": rf"Answer: ({'|'.join(map(re.escape, words))})\.?",
            }
        )

    def knowledge_prompts(self) -> KnowledgePrompts:
        """How a model is asked for background knowledge on a question."""
        return KnowledgePrompts()

    def critique_prompts(self) -> CritiquePrompts:
        """How a model is asked to criticise the answer that a row proposes, or all answers."""
        if self.proposes_answers:
            return CritiquePrompts()
        asked = "A careful reviewer says what speaks for each answer and what against it"
        return CritiquePrompts(
            ask=f"{self.debate_prompts().task}\n\n{{row}}\n\n{asked}, "
            "with reasons that can be checked.\n\nReview:"
        )

    def passage(self, prompt: str) -> str:
        """The text that a row's question is about, the beginning of its prompt; empty: none."""
        return prompt.rpartition("\n\nQ: ")[0]

    def without_passage(self, prompt: str) -> str:
        """The rest of the prompt: the question, with a proposed answer where there is one."""
        return prompt.removeprefix(self.passage(prompt)).lstrip("\n")

    def typed(self, text: str) -> tuple[str, int | None]:
        """The prompt of a question that somebody typed, and its label where the task knows it.

        Raises:
            UserError: the models of the task cannot read it.
        """
        if not text.strip():
            raise UserError("the question is empty; type one with the answer that is proposed")
        return text.strip(), None

    def with_transcript(self, prompt: str, transcript: str) -> str:
        """The input of a model that reads a debate, or what else was said: after the prompt."""
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


def _kept(number: int) -> Callable[[Callable[[Task], R]], Callable[[Task], R]]:
    """`lru_cache` that keeps the signature: type checkers do not see that a spec has a hash."""
    return lambda function: cast("Callable[[Task], R]", lru_cache(maxsize=number)(function))


@_kept(4)
def load(task: Task) -> TaskData:
    """The rows of a task; those of the last few tasks stay in memory.

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


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is to know of a task's rows without the rows."""

    num_rows: dict[Split, int]
    """Rows by split."""
    num_tokens: float
    """A rough number of tokens a prompt has, from its length."""
    has_options: bool
    """Whether rows are choices among whole texts."""
    has_passages: bool
    """Whether all questions are about a passage that stands before them."""
    notes: tuple[str, ...]
    """What the loader has to say."""


@_kept(1024)
def shape_of(task: Task) -> Shape:
    """The shape of a task, whose rows are read for it once a process; see `load`."""
    data = load(task)
    rows = data.rows["test"]
    return Shape(
        num_rows={split: len(data.rows[split]) for split in SPLITS},
        num_tokens=max(4.0, sum(len(row.prompt) for row in rows) / len(rows) / 4),
        has_options=bool(rows[0].options),
        has_passages=not rows[0].options and all(task.passage(row.prompt) for row in rows),
        notes=tuple(data.notes),
    )
