"""MultiRC (Khashabi et al. 2018), as in SuperGLUE: is an answer about a paragraph right?

A question can have several right answers; each answer has its label. Questions about one paragraph
stay in one split. The hub's validation rows become `test`, since its test rows have no labels.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": 1, "false": 0, "true": 1}


class MultiRC(DatasetTask):
    """Whether an answer to a question about a paragraph is right."""

    kind: Literal["multirc"] = "multirc"
    path: str = "aps/super_glue"
    subset: str | None = "multirc"

    columns: ClassVar[tuple[str, ...]] = ("paragraph", "question", "answer", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)
    instruction: ClassVar[str] = (
        "Each input is a paragraph, a question about it and an answer. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row an answer; label 1 for right."""
        rows = source.rows(
            frame, ("paragraph", "question", "answer"), label="label", classes=CLASSES
        )
        for _, label, (paragraph, question, answer), _ in rows:
            asked = f"{paragraph}\n\nQ: {question}"
            prompt = f"{asked}\nA: {answer}"
            yield Example(prompt, label, group=normal(paragraph), question=asked)
