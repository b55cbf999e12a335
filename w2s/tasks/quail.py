"""QuAIL (Rogers et al. 2020): questions of nine kinds about a text, four answers each.

Each question gives its right answer and one wrong one as rows of yes or no; "not enough
information" is an answer like any other. Questions about one text stay in one split. The hub's
validation rows become `test`; its challenge rows are not read.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal


class QuAIL(DatasetTask):
    """Whether an answer to a question about a text is right."""

    kind: Literal["quail"] = "quail"
    path: str = "textmachinelab/quail"

    columns: ClassVar[tuple[str, ...]] = ("context", "question", "answers", "correct_answer_id")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)
    instruction: ClassVar[str] = (
        "Each input is a text, a question about it and an answer. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a question."""
        return choice_examples(self._questions(frame, source), source, self.seed)

    def _questions(self, frame: pd.DataFrame, source: Source) -> Iterator[Question]:
        for row, _, (context, question), (cell, key) in source.rows(
            frame, ("context", "question"), others=("answers", "correct_answer_id")
        ):
            answers = source.texts(row, "answers", cell)
            names = [str(index) for index in range(len(answers))]
            right = source.chosen(row, "correct_answer_id", key, names)
            if right is None:
                continue
            yield Question.choice(
                stem=f"{context}\n\nQ: {question}\nA: ",
                group=normal(context),
                options=answers,
                right=right,
            )
