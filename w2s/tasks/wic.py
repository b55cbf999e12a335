"""WiC (Pilehvar and Camacho-Collados 2019), as in SuperGLUE: has a word the same sense twice?

Pairs about one word stay in one split, which drops the training pairs of words that the held-out
rows ask about too. The hub's validation rows become `test`, since its test rows have no labels.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": 1, "false": 0, "true": 1}


class WiC(DatasetTask):
    """Whether a word has the same sense in two sentences."""

    kind: Literal["wic"] = "wic"
    path: str = "aps/super_glue"
    subset: str | None = "wic"

    columns: ClassVar[tuple[str, ...]] = ("word", "sentence1", "sentence2", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("test",)

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a pair of sentences; label 1 for the same sense."""
        rows = source.rows(
            frame, ("word", "sentence1", "sentence2"), label="label", classes=CLASSES
        )
        for _, label, (word, first, second), _ in rows:
            question = f'Does "{word}" mean the same in both sentences?'
            yield Example(
                prompt=f"1: {first}\n2: {second}\n\nQ: {question}\nA:",
                label=label,
                group=normal(word),
            )
