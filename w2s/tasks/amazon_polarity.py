"""Amazon polarity (Zhang et al. 2015): is a product review positive?

Reviews of one or two stars are negative, of four or five positive. The hub has no validation rows:
`val` is cut off from the training reviews.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal

CLASSES = {"0": 0, "1": 1, "negative": 0, "positive": 1}


class AmazonPolarity(DatasetTask):
    """Whether a product review is positive."""

    kind: Literal["amazon_polarity"] = "amazon_polarity"
    path: str = "fancyzhx/amazon_polarity"

    columns: ClassVar[tuple[str, ...]] = ("title", "content", "label")
    hub_lacks: ClassVar[tuple[Part, ...]] = ("val",)

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One row a review; label 1 for positive."""
        rows = source.rows(frame, ("content",), label="label", classes=CLASSES, others=("title",))
        for row, label, (content,), (title,) in rows:
            review = f"{source.text(row, 'title', title)}\n{content}".strip()
            prompt = f"{review}\n\nQ: Is this review positive?\nA:"
            yield Example(prompt=prompt, label=label, group=normal(content))
