"""Social IQa (Sap et al. 2019): questions about people in a situation, three answers each.

Each question gives its right answer and one wrong one as rows of yes or no. Questions about one
situation stay in one split. The hub's validation rows become `test`; it publishes no test rows.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

ANSWERS = ("answerA", "answerB", "answerC")
CLASSES = {"1": 0, "2": 1, "3": 2}


class SocialIQa(DatasetTask):
    """Whether an answer to a question about a social situation is right."""

    kind: Literal["social_i_qa"] = "social_i_qa"
    path: str = "allenai/social_i_qa"

    columns: ClassVar[tuple[str, ...]] = ("context", "question", *ANSWERS, "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)
    instruction: ClassVar[str] = (
        "Each input is a social situation, a question about it and an answer. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a question."""
        rows = source.rows(
            frame, ("context", "question"), label="label", classes=CLASSES, others=ANSWERS
        )
        return choice_examples(
            (
                Question.choice(
                    stem=f"{context}\n\nQ: {question}\nA: ",
                    group=normal(context),
                    options=answers,
                    right=right,
                )
                for row, right, (context, question), cells in rows
                for answers in [tuple(map(source.text, [row] * 3, ANSWERS, cells))]
            ),
            source,
            self.seed,
        )
