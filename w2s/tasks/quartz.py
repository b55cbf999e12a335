"""QuaRTz (Tafjord et al. 2019): questions about a qualitative relation, two answers each.

Each question comes with the sentence that states the relation, and gives its right and its wrong
answer as rows of yes or no. Questions about one sentence stay in one split.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal


class QuaRTz(DatasetTask):
    """Whether an answer to a question about a qualitative relation is right."""

    kind: Literal["quartz"] = "quartz"
    path: str = "allenai/quartz"

    columns: ClassVar[tuple[str, ...]] = ("para", "question", "choices", "answerKey")
    instruction: ClassVar[str] = (
        "Each input is a sentence, a question that follows from it and an answer. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a question."""
        return choice_examples(self._questions(frame, source), source, self.seed)

    def _questions(self, frame: pd.DataFrame, source: Source) -> Iterator[Question]:
        for row, _, (sentence, question), (choices, key) in source.rows(
            frame, ("para", "question"), others=("choices", "answerKey")
        ):
            options = source.choices(row, "choices", choices)
            right = source.chosen(row, "answerKey", key, list(options))
            if right is None:
                continue
            texts = list(options.values())
            yield Question.choice(
                stem=f"{sentence}\n\nQ: {question}\nA: ",
                group=normal(sentence),
                options=texts,
                right=right,
            )
