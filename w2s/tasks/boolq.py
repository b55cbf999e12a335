"""BoolQ (Clark et al. 2019): yes-or-no questions about a passage of Wikipedia.

Questions about one passage stay in one split. The hub's validation rows become `test`.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"false": 0, "true": 1, "0": 0, "1": 1}


class BoolQ(DatasetTask):
    """Whether the answer to a question about a passage is yes."""

    kind: Literal["boolq"] = "boolq"
    path: str = "google/boolq"

    columns: ClassVar[tuple[str, ...]] = ("question", "passage", "answer")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a question; label 1 for yes."""
        rows = source.rows(frame, ("question", "passage"), label="answer", classes=CLASSES)
        for _, label, (question, passage), _ in rows:
            prompt = f"{passage}\n\nQ: {question.rstrip('?')}?\nA:"
            yield Example(prompt=prompt, label=label, group=normal(passage))
