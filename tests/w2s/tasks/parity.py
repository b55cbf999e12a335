"""A task of one's own, as a user writes it: named by module and class, beside no other task."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import pandas as pd

from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source


class Parity(DatasetTask):
    """Whether a number is odd."""

    kind: Literal["tests.w2s.tasks.parity:Parity"] = "tests.w2s.tasks.parity:Parity"

    columns: ClassVar[tuple[str, ...]] = ("number",)

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a number."""
        for _, _, (number,), _ in source.rows(frame, ("number",)):
            yield Example(f"Is {number} odd?", int(number) % 2, group=number)
