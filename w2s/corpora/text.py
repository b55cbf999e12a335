"""Real text as a corpus: rows of tables as documents.

`TextSource` says which rows of which table are read and how a row becomes a document. A
`TextCorpus` joins its sources and leaves out documents that contain a held-out text (the test
questions of the task).
"""

import string
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from w2s import tables
from w2s.corpora._packed import PackedText, Reading
from w2s.errors import UserError
from w2s.spec import Spec, digest

SHINGLE_WORDS = 6
"""Held-out texts are looked up by their first words, this many at most."""


class TextSource(Spec):
    """Rows of a table that are read as documents."""

    path: str
    """Hub id, folder with one file a split, or one file."""
    split: str = "train"
    """Split to read; of one file all rows are read."""
    revision: str | None = None
    """Commit, branch or tag of a hub id."""
    template: str
    """A document with `{column}` placeholders; a column of lists gives its items, with spaces
    between."""

    @field_validator("template")
    @classmethod
    def _has_columns(cls, template: str) -> str:
        if not _columns(template):
            raise ValueError(
                f"template {template!r} names no column; write for example '{{question}}'"
            )
        return template

    def identity_fields(self) -> Iterable[str]:
        """Where the text lies is no identity: its fingerprint goes beside the corpus."""
        return [name for name in type(self).model_fields if name != "path"]

    def documents(self) -> list[str]:
        """The rows as text, in the order of the table; empty and repeated ones left out.

        Raises:
            UserError: no such data, split or column.
        """
        columns = _columns(self.template)
        frame = tables.read(self.path, self.split, columns, self.revision)
        rows = zip(*(map(_joined, frame[column]) for column in columns), strict=True)
        texts = (self.template.format(**dict(zip(columns, row, strict=True))) for row in rows)
        return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


class TextReading(Reading):
    """Documents of some tables, but for those that contain a held-out text."""

    sources: tuple[TextSource, ...]
    """What is read."""
    held_out: tuple[TextSource, ...]
    """What no document may contain."""

    def documents(self) -> tuple[str, ...]:
        """The distinct documents of all sources, without those that contain a held-out text."""
        texts = dict.fromkeys(text for source in self.sources for text in source.documents())
        contains = _finder(text for source in self.held_out for text in source.documents())
        kept = tuple(text for text in texts if not contains(text))
        if not kept:
            raise UserError(
                f"the sources of the corpus give no document: {len(texts)} were read, and each "
                "contains a held-out text"
            )
        return kept


class TextCorpus(PackedText):
    """Packed real text, read up to a budget of tokens."""

    kind: Literal["text"] = "text"
    sources: tuple[TextSource, ...] = Field(min_length=1)
    """What is read."""
    held_out: tuple[TextSource, ...] = ()
    """Texts that no document may contain, such as the questions of the task's test split."""

    def reading(self) -> TextReading:
        """The sources without what is held out."""
        return TextReading(sources=self.sources, held_out=self.held_out)

    def fingerprint(self) -> str:
        """Digest of the data of all sources."""
        return digest(
            [
                tables.fingerprint(source.path, (source.split,), source.revision)
                for source in (*self.sources, *self.held_out)
            ]
        )


def _columns(template: str) -> tuple[str, ...]:
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name)
    return tuple(dict.fromkeys(names))


def _joined(cell: Any) -> str:
    """A cell as text."""
    if isinstance(cell, list | tuple | np.ndarray):
        return " ".join(map(_joined, cell))
    return "" if cell is None or cell != cell else str(cell)


def _finder(held_out: Iterable[str]) -> Callable[[str], bool]:
    """Tells whether a document contains one of the held-out texts, word for word."""
    by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for text in held_out:
        if words := _words(text):
            by_start.setdefault(words[:SHINGLE_WORDS], []).append(words)
    lengths = sorted({len(start) for start in by_start})

    def contains(document: str) -> bool:
        words = _words(document)
        for position in range(len(words)):
            for length in lengths:
                for candidate in by_start.get(words[position : position + length], ()):
                    if words[position : position + len(candidate)] == candidate:
                        return True
        return False

    return contains


def _words(text: str) -> tuple[str, ...]:
    kept = (character if character.isalnum() else " " for character in text.casefold())
    return tuple("".join(kept).split())
