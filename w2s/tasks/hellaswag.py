"""HellaSwag (Zellers et al. 2019): how does a scene go on? Four endings each.

Each scene gives its right ending and one wrong one as rows of yes or no. The hub's validation rows
become `test`, since its test rows have no labels.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal


class HellaSwag(DatasetTask):
    """Whether a scene goes on like this."""

    kind: Literal["hellaswag"] = "hellaswag"
    path: str = "Rowan/hellaswag"

    columns: ClassVar[tuple[str, ...]] = ("ctx", "endings", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)
    instruction: ClassVar[str] = (
        "Each input is a scene and how it goes on. "
        "The label is 1 if the scene goes on like this, else 0."
    )

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """Equally many right and wrong rows a scene."""
        return choice_examples(self._questions(frame, source), source, self.seed)

    def _questions(self, frame: pd.DataFrame, source: Source) -> Iterator[Question]:
        for row, _, (scene,), (cell, label) in source.rows(
            frame, ("ctx",), others=("endings", "label")
        ):
            endings = source.texts(row, "endings", cell)
            right = source.chosen(row, "label", label, [str(i) for i in range(len(endings))])
            if right is None:
                continue
            yield Question.choice(
                stem=f"{scene} ",
                group=normal(scene),
                options=endings,
                right=right,
            )
