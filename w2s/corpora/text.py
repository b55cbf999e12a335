"""Real text as a corpus: a tokenizer trained on it, packed documents, a budget of tokens.

`TextSource` says which rows of which table are read and how a row becomes a document. A
`TextCorpus` joins its sources, leaves out documents that contain a held-out text (the test
questions of the task), and gives one phase without a criterion: rows of `sequence_length` tokens
cut from the documents in random order, until `num_tokens` are read. A budget above the size of the
text reads it again in another order. Rungs of one ladder with the same text have the same
tokenizer, whatever their budgets.

B rows, T tokens.
"""

import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from w2s import tables
from w2s.corpora.base import Corpus, Phase, RowGroup
from w2s.errors import UserError
from w2s.spec import Spec, digest
from w2s.training.optim import LearningRates

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
"""Stands after every document, and so before the next one."""
PADDING = "<|padding|>"

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


class TextCorpus(Corpus):
    """Packed real text, read up to a budget of tokens."""

    kind: Literal["text"] = "text"
    sources: tuple[TextSource, ...] = Field(min_length=1)
    """What is read."""
    held_out: tuple[TextSource, ...] = ()
    """Texts that no document may contain, such as the questions of the task's test split."""
    vocabulary_size: int = Field(default=4096, ge=512)
    """Entries of the tokenizer, its two special tokens included."""
    sequence_length: int = Field(default=128, ge=8)
    """Tokens of a row."""
    batch_size: int = Field(default=32, ge=1)
    """Rows an optimizer step."""
    num_tokens: int = Field(ge=1)
    """Tokens read in all; rounded up to whole optimizer steps."""
    learning_rates: LearningRates = LearningRates()
    """Peak learning rates."""
    warmup_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Share of the steps in which the learning rates rise."""
    cooldown_fraction: float = Field(default=0.4, ge=0, le=1)
    """Share of the steps, at the end, in which they fall."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.warmup_fraction + self.cooldown_fraction > 1:
            raise ValueError(
                "warmup_fraction and cooldown_fraction are shares of the same steps; found "
                f"{self.warmup_fraction} + {self.cooldown_fraction}, allowed: at most 1 together"
            )
        return self

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the budget."""
        return -(-self.num_tokens // (self.batch_size * self.sequence_length))

    def fingerprint(self) -> str:
        """Digest of the data of all sources."""
        return digest(
            [
                tables.fingerprint(source.path, (source.split,), source.revision)
                for source in (*self.sources, *self.held_out)
            ]
        )

    def tokenizer(self, cache: "Path | None" = None) -> "PreTrainedTokenizerFast":
        """A byte-level BPE tokenizer trained on all documents."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=_trained(self.sources, self.held_out, self.vocabulary_size),
            bos_token=END_OF_TEXT,
            eos_token=END_OF_TEXT,
            pad_token=PADDING,
            clean_up_tokenization_spaces=False,
        )

    def cost(self, size: int) -> float:
        """The token budget at the rate measured on one core."""
        return self.num_tokens * (5e-5 + 1.85e-10 * size)

    def curriculum(self, tokenizer: "PreTrainedTokenizerFast") -> list[Phase]:
        """One phase: read until the budget is spent.

        Raises:
            UserError: the text is shorter than one update.
        """
        stream = _encoded(self.sources, self.held_out, self.vocabulary_size)
        needed = self.batch_size * self.sequence_length + 1
        if len(stream.tokens) < needed:
            raise UserError(
                f"the text of the corpus has {len(stream.tokens)} tokens, one update needs "
                f"{needed}; give it more text, a smaller batch_size or a shorter sequence_length"
            )
        return [
            Phase(
                name="read",
                updates=lambda seed: self._updates(stream, seed),
                learning_rates=self.learning_rates,
                max_steps=self.num_steps,
                warmup_steps=round(self.warmup_fraction * self.num_steps),
                cooldown_steps=round(self.cooldown_fraction * self.num_steps),
            )
        ]

    def _updates(self, stream: "_Stream", seed: int) -> Iterator[list[RowGroup]]:
        import torch

        rng = np.random.default_rng([seed, 3])
        size = self.batch_size * self.sequence_length
        shape = (self.batch_size, self.sequence_length)
        while True:
            tokens = stream.shuffled(rng)
            for start in range(0, len(tokens) - size, size):
                window = torch.from_numpy(tokens[start : start + size + 1].astype(np.int64))
                yield [
                    RowGroup(
                        input_ids_BT=window[:-1].view(shape), targets_BT=window[1:].view(shape)
                    )
                ]


@dataclass(frozen=True, slots=True)
class _Stream:
    """All documents as one array of tokens, each with its end mark."""

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    """Position after the end mark of each document."""

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int32]:
        """The tokens with the documents in another order."""
        documents = np.split(self.tokens, self.ends[:-1])
        return np.concatenate([documents[index] for index in rng.permutation(len(documents))])


def _columns(template: str) -> tuple[str, ...]:
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name)
    return tuple(dict.fromkeys(names))


def _joined(cell: Any) -> str:
    """A cell as text."""
    if isinstance(cell, list | tuple | np.ndarray):
        return " ".join(map(_joined, cell))
    return "" if cell is None or cell != cell else str(cell)


# A process that pretrains one rung after the other takes these three steps once.


@lru_cache(maxsize=2)
def _documents(
    sources: tuple[TextSource, ...], held_out: tuple[TextSource, ...]
) -> tuple[str, ...]:
    """The distinct documents of all sources, without those that contain a held-out text."""
    texts = dict.fromkeys(text for source in sources for text in source.documents())
    contains = _finder(text for source in held_out for text in source.documents())
    kept = tuple(text for text in texts if not contains(text))
    if not kept:
        raise UserError(
            f"the sources of the corpus give no document: {len(texts)} were read, and each "
            "contains a held-out text"
        )
    return kept


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


@lru_cache(maxsize=2)
def _trained(
    sources: tuple[TextSource, ...], held_out: tuple[TextSource, ...], vocabulary_size: int
) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_documents(sources, held_out), trainer)
    return tokenizer


@lru_cache(maxsize=2)
def _encoded(
    sources: tuple[TextSource, ...], held_out: tuple[TextSource, ...], vocabulary_size: int
) -> _Stream:
    tokenizer = _trained(sources, held_out, vocabulary_size)
    end = tokenizer.token_to_id(END_OF_TEXT)
    encodings = tokenizer.encode_batch(list(_documents(sources, held_out)))
    documents = [np.array([*encoding.ids, end], dtype=np.int32) for encoding in encodings]
    return _Stream(np.concatenate(documents), np.cumsum([len(document) for document in documents]))
