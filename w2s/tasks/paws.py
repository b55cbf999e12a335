"""PAWS (Zhang et al. 2019), its final labelled part: do two sentences of like words mean the same?

Pairs with the same first sentence stay in one split.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": 1}


class PAWS(DatasetTask):
    """Whether two sentences mean the same."""

    kind: Literal["paws"] = "paws"
    path: str = "google-research-datasets/paws"
    subset: str | None = "labeled_final"

    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2", "label")

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a pair; label 1 for the same meaning."""
        rows = source.rows(frame, ("sentence1", "sentence2"), label="label", classes=CLASSES)
        for _, label, (first, second), _ in rows:
            yield Example(
                prompt=f"1: {first}\n2: {second}\n\nQ: Do both sentences mean the same?\nA:",
                label=label,
                group=normal(first),
            )
