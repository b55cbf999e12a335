"""OpenBookQA (Mihaylov et al. 2018): questions of elementary science, four answers each.

Each question gives its right answer and one wrong one as rows of yes or no.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal


class OpenBookQA(DatasetTask):
    """Whether an answer to a question of elementary science is right."""

    kind: Literal["openbookqa"] = "openbookqa"
    path: str = "allenai/openbookqa"
    subset: str | None = "main"

    columns: ClassVar[tuple[str, ...]] = ("question_stem", "choices", "answerKey")
    instruction: ClassVar[str] = (
        "Each input is a question of elementary science and an answer to it. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a question."""
        return choice_examples(self._questions(frame, source), source, self.seed)

    def _questions(self, frame: pd.DataFrame, source: Source) -> Iterator[Question]:
        for row, _, (question,), (choices, key) in source.rows(
            frame, ("question_stem",), others=("choices", "answerKey")
        ):
            options = source.choices(row, "choices", choices)
            right = source.chosen(row, "answerKey", key, list(options))
            if right is None:
                continue
            texts = list(options.values())
            yield Question.choice(
                stem=f"Q: {question}\nA: ",
                group=normal(question),
                options=texts,
                right=right,
            )
