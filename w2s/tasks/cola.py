"""CoLA (Warstadt et al. 2019): is a sentence of English acceptable?

The hub's validation rows become `test`, since its test rows have no labels.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": 1, "unacceptable": 0, "acceptable": 1}


class CoLA(DatasetTask):
    """Whether a sentence is acceptable to a speaker of English."""

    kind: Literal["cola"] = "cola"
    path: str = "nyu-mll/glue"
    subset: str | None = "cola"

    columns: ClassVar[tuple[str, ...]] = ("sentence", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a sentence; label 1 for acceptable."""
        rows = source.rows(frame, ("sentence",), label="label", classes=CLASSES)
        for _, label, (sentence,), _ in rows:
            prompt = f"{sentence}\n\nQ: Is this sentence acceptable English?\nA:"
            yield Example(prompt=prompt, label=label, group=normal(sentence))
