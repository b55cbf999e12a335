"""SciQ (Welbl et al. 2017): science exam questions, each with the right answer or a wrong one.

As in Burns et al. (2023, appendix A) a question with its options becomes a question of yes or no:
`Q: ... A: ...`, label 1 for the right answer and 0 for one of the distractors. The source repeats
questions, also across its splits, and has the right answer among the distractors here and there:
`_dataset` mends it and counts it.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

DISTRACTORS = ("distractor1", "distractor2", "distractor3")


class SciQ(DatasetTask):
    """Whether an answer to a science question is right."""

    kind: Literal["sciq"] = "sciq"
    path: str = "allenai/sciq"

    columns: ClassVar[tuple[str, ...]] = ("question", "correct_answer", *DISTRACTORS)
    instruction: ClassVar[str] = (
        "Each input is a science question and an answer to it. "
        "The label is 1 if the answer is correct, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a question."""
        rows = source.rows(frame, ("question", "correct_answer"), others=DISTRACTORS)
        questions = (
            Question(
                stem=f"Q: {question} A: ",
                group=normal(question),
                right=(answer,),
                wrong=tuple(map(source.text, [row] * 3, DISTRACTORS, distractors)),
            )
            for row, _, (question, answer), distractors in rows
        )
        return choice_examples(questions, source, self.seed)
