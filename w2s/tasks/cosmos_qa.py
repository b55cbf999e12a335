"""CosmosQA (Huang et al. 2019): what a short narrative lets one infer, four answers a question.

Each question gives its right answer and one wrong one as rows of yes or no. "None of the above"
says nothing without the other options: it is never a wrong answer, and questions whose right answer
it is are dropped and counted. Questions about one narrative stay in one split. The hub's validation
rows become `test`, since its test rows have no labels.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

ANSWERS = ("answer0", "answer1", "answer2", "answer3")
CLASSES = {"0": 0, "1": 1, "2": 2, "3": 3}
NONE_OF_THEM = "none of the above choices"


class CosmosQA(DatasetTask):
    """Whether an answer to a question about a narrative is right."""

    kind: Literal["cosmos_qa"] = "cosmos_qa"
    path: str = "allenai/cosmos_qa"

    columns: ClassVar[tuple[str, ...]] = ("context", "question", *ANSWERS, "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)
    instruction: ClassVar[str] = (
        "Each input is a narrative, a question about it and an answer. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a question."""
        return choice_examples(self._questions(frame, source), source, self.seed)

    def _questions(self, frame: pd.DataFrame, source: Source) -> Iterator[Question]:
        rows = source.rows(
            frame, ("context", "question"), label="label", classes=CLASSES, others=ANSWERS
        )
        for row, right, (context, question), cells in rows:
            answers = [
                source.text(row, name, cell) for name, cell in zip(ANSWERS, cells, strict=True)
            ]
            if normal(answers[right]).startswith(NONE_OF_THEM):
                source.drop("questions have no right answer among their options and were dropped")
                continue
            wrong = (*answers[:right], *answers[right + 1 :])
            yield Question(
                stem=f"{context}\n\nQ: {question}\nA: ",
                group=normal(context),
                right=(answers[right],),
                wrong=tuple(text for text in wrong if not normal(text).startswith(NONE_OF_THEM)),
            )
