"""PIQA (Bisk et al. 2020): two ways to reach an everyday goal, one of which works.

Each goal gives both ways as rows of yes or no. The hub's validation rows become `test`, since its
test rows have no labels.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal


class PIQA(DatasetTask):
    """Whether a way to reach a goal works."""

    kind: Literal["piqa"] = "piqa"
    path: str = "ybisk/piqa"

    columns: ClassVar[tuple[str, ...]] = ("goal", "sol1", "sol2", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)
    instruction: ClassVar[str] = (
        "Each input is a goal and a way to reach it. The label is 1 if the way works, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """A right and a wrong row a goal."""
        rows = source.rows(frame, ("goal", "sol1", "sol2"), label="label", classes={"0": 0, "1": 1})
        questions = (
            Question.choice(
                stem=f"Q: {goal}\nA: ",
                group=normal(goal),
                options=solutions,
                right=right,
            )
            for _, right, (goal, *solutions), _ in rows
        )
        return choice_examples(questions, source, self.seed)
