"""SST-2 (Socher et al. 2013): is a sentence of a film review positive?

The hub's validation rows become `test`, since its test rows have no labels.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": 1, "negative": 0, "positive": 1}


class SST2(DatasetTask):
    """Whether a sentence of a film review is positive."""

    kind: Literal["sst2"] = "sst2"
    path: str = "nyu-mll/glue"
    subset: str | None = "sst2"

    columns: ClassVar[tuple[str, ...]] = ("sentence", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a sentence or phrase; label 1 for positive."""
        rows = source.rows(frame, ("sentence",), label="label", classes=CLASSES)
        for _, label, (sentence,), _ in rows:
            prompt = f"{sentence}\n\nQ: Is this review positive?\nA:"
            yield Example(prompt=prompt, label=label, group=normal(sentence))
