"""Reading a source of rows: cells checked, what is wrong with them named or counted.

`Source` hands out the rows of one split of a data set, and turns cells into texts, options and
classes; a task makes `Example`s of them (`w2s.tasks._dataset`).
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from w2s import tables
from w2s.errors import UserError

CHUNK_ROWS = 20_000
"""Rows of a frame that are Python objects at a time."""


@dataclass(frozen=True, slots=True)
class Example:
    """One classification row before splitting."""

    prompt: str
    """What a model reads."""
    label: int
    """Ground truth, 0 to num_classes - 1."""
    group: str
    """Examples of one group stay in one split; any text (its hash is what is kept)."""
    options: tuple[str, ...] = ()
    """For a choice among whole texts, the text of each option, one per class."""
    question: str = ""
    """The question alone, where the prompt also proposes an answer."""


class Cells(NamedTuple):
    """The checked cells of one row."""

    row: int
    """Index of the row in its source split, for messages."""
    label: int
    """Class of the row; 0 where no label column was asked for."""
    texts: tuple[str, ...]
    """The text columns, without white space at the ends; none is empty."""
    others: tuple[Any, ...]
    """The other columns, as they are."""


class Source:
    """One source split while it is read: checks its cells, and counts what is dropped."""

    def __init__(self, path: str, split: str | None, subset: str | None = None) -> None:
        self.path = path
        self.split = split
        """Name of the split in the source; None for one file without splits."""
        self.subset = subset
        self.label_column = ""
        """The column that `rows` read labels from."""
        self.num_unlabelled = 0
        """Rows that `rows` skipped because they have no label (empty or -1)."""
        self._dropped: Counter[str] = Counter()

    def drop(self, what: str, number: int = 1) -> None:
        """Count rows or questions for the notes: `what` goes on after the number."""
        self._dropped[what] += number

    def notes(self) -> list[str]:
        """One sentence for each kind of thing that was counted."""
        return [f"{self.name}: {number} {what}." for what, number in self._dropped.items()]

    @property
    def name(self) -> str:
        """How notes call the split."""
        return "source file" if self.split is None else f"source split {self.split}"

    def error(self, row: int, column: str, problem: str) -> UserError:
        """An error that names file, row and column of a cell."""
        where = tables.place(self.path, self.split or "", row, self.subset)
        return UserError(f"{where}, column {column!r}: {problem}")

    def rows(
        self,
        frame: pd.DataFrame,
        texts: Sequence[str],
        *,
        label: str | None = None,
        classes: Mapping[str, int] | None = None,
        others: Sequence[str] = (),
    ) -> Iterator[Cells]:
        """The rows whose texts are not empty and that have a label.

        Args:
            frame: the rows of the source split.
            texts: columns of text. Rows with an empty one are dropped and counted.
            label: column of labels. Rows without one (empty or -1) are counted apart.
            classes: class of each value that a label can have, in lower case; -1 drops the row.
            others: columns that come along unchecked.

        Raises:
            UserError: a text is no text, or a label is not among `classes`.
        """
        self.label_column = label or ""
        known: dict[Any, int | None] = {}
        for start in range(0, len(frame), CHUNK_ROWS):
            part = frame.iloc[start : start + CHUNK_ROWS]
            columns = [part[name].tolist() for name in (*texts, *others)]
            labels = [0] * len(part) if label is None else part[label].tolist()
            for offset, (value, *cells) in enumerate(zip(labels, *columns, strict=True)):
                row = start + offset
                found: int | None = 0
                if label is not None:
                    try:
                        found = known[value]
                    except (KeyError, TypeError):
                        found = self._class(row, label, value, classes or {})
                        known[value] = found
                if found is None:
                    self.num_unlabelled += 1
                    continue
                if found < 0:
                    self.drop(f"rows are labelled {value!r}, which is no class here, and left out")
                    continue
                read = [
                    self.text(row, name, cell) for name, cell in zip(texts, cells, strict=False)
                ]
                if "" in read:
                    self.drop(f"rows have an empty {texts[read.index('')]!r} and were dropped")
                    continue
                yield Cells(row, found, tuple(read), tuple(cells[len(texts) :]))

    def text(self, row: int, column: str, cell: Any) -> str:
        """A cell as text without white space at the ends; empty where there is none."""
        if isinstance(cell, str):
            return cell.strip()
        if cell is None or cell is pd.NA or cell != cell:
            return ""
        if isinstance(cell, int | float | np.integer | np.floating):
            return str(cell)
        raise self.error(row, column, f"found {_shown(cell)}; allowed: text")

    def texts(self, row: int, column: str, cell: Any) -> list[str]:
        """A cell with a list of texts; from csv, a JSON list."""
        cell = _parsed(cell)
        if not isinstance(cell, list | tuple | np.ndarray):
            raise self.error(row, column, f"found {_shown(cell)}; allowed: a list of texts")
        return [self.text(row, column, item) for item in cell]

    def choices(self, row: int, column: str, cell: Any) -> dict[str, str]:
        """A cell `{text = [...], label = [...]}` as a table from label to text."""
        cell = _parsed(cell)
        if not isinstance(cell, dict) or not {"text", "label"} <= set(cell):
            raise self.error(
                row, column, f"found {_shown(cell)}; allowed: {{text = [...], label = [...]}}"
            )
        names, options = (self.texts(row, column, cell[key]) for key in ("label", "text"))
        if len(names) != len(options) or len(set(names)) != len(names):
            raise self.error(row, column, f"{len(options)} texts have the labels {names}")
        return dict(zip(names, options, strict=True))

    def chosen(self, row: int, column: str, answer: Any, names: Sequence[str]) -> int | None:
        """Index of the answer among the names of the options; None where there is no answer."""
        name = class_name(answer)
        if name in ("", "-1") and name not in names:
            self.num_unlabelled += 1
            return None
        self.label_column = column
        if name not in (lowered := [option.casefold() for option in names]):
            raise self.error(
                row, column, f"found {_shown(answer)}; allowed: {', '.join(map(repr, names))}"
            )
        return lowered.index(name)

    def _class(self, row: int, column: str, value: Any, classes: Mapping[str, int]) -> int | None:
        name = class_name(value)
        if name in classes:
            return classes[name]
        if name in ("", "-1"):
            return None
        raise self.error(
            row, column, f"found {_shown(value)}; allowed: {', '.join(map(repr, classes))}"
        )


def digest(*parts: str) -> str:
    """First 16 hex digits of the sha256 of some texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def class_name(value: Any) -> str:
    """A label as the lower-case text that classes are named by."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def _parsed(cell: Any) -> Any:
    """A cell of a csv file that holds JSON, parsed; any other as it is."""
    if isinstance(cell, str):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(cell)
    return cell


def _shown(value: Any) -> str:
    """A value for a message, cut to a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
