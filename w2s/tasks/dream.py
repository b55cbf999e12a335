"""DREAM (Sun et al. 2019): questions about a dialogue, three answers each.

Each question gives its right answer and one wrong one as rows of yes or no. Questions about one
dialogue stay in one split.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal


class Dream(DatasetTask):
    """Whether an answer to a question about a dialogue is right."""

    kind: Literal["dream"] = "dream"
    path: str = "dataset-org/dream"

    columns: ClassVar[tuple[str, ...]] = ("dialogue", "question", "choice", "answer")
    instruction: ClassVar[str] = (
        "Each input is a dialogue, a question about it and an answer. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a question."""
        return choice_examples(self._questions(frame, source), source, self.seed)

    def _questions(self, frame: pd.DataFrame, source: Source) -> Iterator[Question]:
        rows = source.rows(frame, ("question", "answer"), others=("dialogue", "choice"))
        for row, _, (question, answer), (dialogue, choice) in rows:
            turns = "\n".join(source.texts(row, "dialogue", dialogue))
            options = source.texts(row, "choice", choice)
            right = source.chosen(row, "answer", answer, options)
            if right is None:
                continue
            yield Question.choice(
                stem=f"{turns}\n\nQ: {question}\nA: ",
                group=normal(turns),
                options=options,
                right=right,
            )
