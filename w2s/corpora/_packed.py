"""Packed text: documents from somewhere, a tokenizer trained on them, a budget of tokens.

`Reading` says which documents there are. A corpus of packed text gives one phase without a
criterion: rows of `sequence_length` tokens cut from the documents in random order, until
`num_tokens` are read. A budget above the size of the text reads it again in another order. Rungs of
one ladder with the same text have the same tokenizer, whatever their budgets.

B rows, T tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

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


class Reading(Spec):
    """Where documents come from."""

    def __hash__(self) -> int:
        """Equal readings are read once a process."""
        return hash(digest(self))

    def documents(self) -> tuple[str, ...]:
        """The distinct documents, in a fixed order.

        Raises:
            UserError: no such data, or no document.
        """
        raise NotImplementedError


class PackedText(Corpus):
    """Packed documents, read up to a budget of tokens."""

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

    def reading(self) -> Reading:
        """What is read: equal for corpora that differ only in their recipe."""
        raise NotImplementedError

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

    def tokenizer(self, cache: "Path | None" = None) -> "PreTrainedTokenizerFast":
        """A byte-level BPE tokenizer trained on all documents."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=_trained(self.reading(), self.vocabulary_size),
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
        stream = _encoded(self.reading(), self.vocabulary_size)
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


# A process that pretrains one rung after the other takes these three steps once.


@lru_cache(maxsize=2)
def _documents(reading: Reading) -> tuple[str, ...]:
    documents = reading.documents()
    if not documents:
        raise UserError("the corpus has no document to read; give it more text")
    return documents


@lru_cache(maxsize=2)
def _trained(reading: Reading, vocabulary_size: int) -> Any:
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
    tokenizer.train_from_iterator(_documents(reading), trainer)
    return tokenizer


@lru_cache(maxsize=2)
def _encoded(reading: Reading, vocabulary_size: int) -> _Stream:
    tokenizer = _trained(reading, vocabulary_size)
    end = tokenizer.token_to_id(END_OF_TEXT)
    encodings = tokenizer.encode_batch(list(_documents(reading)))
    documents = [np.array([*encoding.ids, end], dtype=np.int32) for encoding in encodings]
    return _Stream(np.concatenate(documents), np.cumsum([len(document) for document in documents]))
