"""ANLI, round 2 (Nie et al. 2020): does the premise entail the hypothesis?

As in Burns et al. (2023, appendix A.1) neutral and contradiction are one class. Hypotheses about
one premise stay in one split.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 1, "1": 0, "2": 0, "entailment": 1, "neutral": 0, "contradiction": 0}


class ANLI(DatasetTask):
    """Whether a premise entails a hypothesis."""

    kind: Literal["anli"] = "anli"
    path: str = "facebook/anli"

    columns: ClassVar[tuple[str, ...]] = ("premise", "hypothesis", "label")
    source_splits: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": ("train_r2",),
        "val": ("dev_r2",),
        "test": ("test_r2",),
    }

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a pair; label 1 for entailment."""
        rows = source.rows(frame, ("premise", "hypothesis"), label="label", classes=CLASSES)
        for _, label, (premise, hypothesis), _ in rows:
            yield Example(
                prompt=f"{premise}\nClaim: {hypothesis}\n\nQ: Does the claim follow?\nA:",
                label=label,
                group=normal(premise),
            )
