"""Token ids of all rows of a task for one model: computed once, shared by everything that reads.

A row is one text, or one per option for a choice among whole texts. Long texts lose tokens on the
left, so that no row is ever dropped; before that, a debate loses the ends of its arguments, so that
the question stays. The files are flat arrays: ids, and the length of each text.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field, SerializeAsAny

from serving.heads import padding_id, token_ids
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.models import Model, load_options, model_location
from w2s.stages.transcripts import PROMPT, read_transcripts, shortened
from w2s.tasks.base import shape_of
from w2s.types import SPLITS, Split

if TYPE_CHECKING:
    from w2s.training.batching import TokenRows

INDEX_FILE = "index.parquet"
TOKENS_FILE = "tokens.safetensors"
THREADS_VARIABLE = "TOKENIZERS_PARALLELISM"
SPECIAL_TOKENS = 8
"""More than any tokenizer puts around a text."""
CHUNK_TEXTS = 8192
"""Texts tokenized at once: a tokenizer's own records take far more memory than the ids."""


class Tokens(Stage):
    """The rows of a task as one model's tokenizer cuts them up."""

    model: Model
    """Model whose tokenizer and longest input count."""
    prompts: Prompts
    """The rows."""
    transcripts: SerializeAsAny[Stage] | None = None
    """Debates that stand after each text; None: the texts alone."""
    max_length: int = Field(default=1024, ge=1)
    """Tokens of a text at most, special tokens included; the model's own limit applies too."""

    @property
    def name(self) -> str:
        """Readable name."""
        debated = "-debate" if self.transcripts else ""
        return f"tokens-{self.model.name.removeprefix('pretrain-')}{debated}"

    def row_tokens(self) -> float:
        """A rough number of tokens that a row has."""
        return min(shape_of(self.prompts.task).num_tokens, self.max_length)

    def num_rows(self, *splits: Split) -> int:
        """Rows of some splits."""
        return sum(shape_of(self.prompts.task).num_rows[split] for split in splits)

    def cost(self) -> float:
        """Estimated seconds on one core, at the rate of a fast tokenizer."""
        return 0.1 + self.num_rows(*SPLITS) * shape_of(self.prompts.task).num_tokens / 4e5

    def run(self, context: StageContext) -> None:
        """Write `index.parquet` (split, row_id) and `tokens.safetensors` (ids, lengths, pad_id)."""
        from safetensors.numpy import save_file

        from w2s.models.tokenizer import load_longest_input, load_tokenizer

        location, options = model_location(self.model, context), load_options(self.model)
        tokenizer = load_tokenizer(location, **options)
        limit = min(self.max_length, load_longest_input(location, **options) or self.max_length)

        def count(text: str) -> int:
            return len(tokenizer(text, verbose=False)["input_ids"])

        frame = self._inputs(context, count, limit)
        texts = [text for row in frame["texts"] for text in row]
        ids, lengths = [], []
        with _threads_of_tokenizer(len(texts) > CHUNK_TEXTS):
            for start in range(0, len(texts), CHUNK_TEXTS):
                rows = token_ids(tokenizer, texts[start : start + CHUNK_TEXTS], limit)
                ids.append(np.fromiter(chain.from_iterable(rows), dtype=np.int32))
                lengths.append(np.array([len(row) for row in rows], dtype=np.int32))
                context.progress(min(start + CHUNK_TEXTS, len(texts)), len(texts), {})
        frame[["split", "row_id"]].to_parquet(context.output_dir / INDEX_FILE, index=False)
        save_file(
            {
                "ids": np.concatenate(ids),
                "lengths": np.concatenate(lengths),
                "pad_id": np.array([padding_id(tokenizer)], dtype=np.int32),
            },
            context.output_dir / TOKENS_FILE,
        )

    def _inputs(
        self, context: StageContext, count: Callable[[str], int], limit: int
    ) -> pd.DataFrame:
        """split, row_id, texts; transcripts are joined by (split, row_id) and cut to fit."""
        frame = read_prompts(context.path(self.prompts))
        texts: list[list[str]] = (
            [list(options) for options in frame["options"]]
            if "options" in frame.columns
            else [[prompt] for prompt in frame["prompt"]]
        )
        if self.transcripts is not None:
            task = self.prompts.task
            debates = read_transcripts(context.path(self.transcripts))
            debates = debates.reindex(columns=["split", "row_id", "text", "turns", PROMPT])
            joined = frame[["split", "row_id"]].merge(
                debates, on=["split", "row_id"], how="left", validate="one_to_one"
            )
            num_missing = int(joined["text"].isna().to_numpy().sum())
            if num_missing:
                raise ValueError(f"{num_missing} rows have no transcript")

            def debated(text: str, transcript: str, turns: str) -> str:
                whole = task.with_transcript(text, transcript)
                if len(whole.encode()) + SPECIAL_TOKENS <= limit:
                    return whole  # no text has more tokens than bytes
                fitting = shortened(
                    transcript,
                    turns,
                    lambda shorter: task.with_transcript(text, shorter),
                    count,
                    limit,
                )
                return task.with_transcript(text, fitting)

            texts = [
                [
                    debated(instead if isinstance(instead, str) else text, transcript, turns)
                    for text in row
                ]
                for row, transcript, turns, instead in zip(
                    texts, joined["text"], joined["turns"], joined[PROMPT], strict=True
                )
            ]
        return frame[["split", "row_id"]].assign(texts=texts)


@contextmanager
def _threads_of_tokenizer(wanted: bool) -> Iterator[None]:
    """Whether fast tokenizers use all cores; for small jobs their threads are in the way."""
    before = os.environ.get(THREADS_VARIABLE)
    os.environ[THREADS_VARIABLE] = "true" if wanted else "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS_VARIABLE]
        else:
            os.environ[THREADS_VARIABLE] = before


@dataclass(frozen=True, slots=True)
class TokenTable:
    """A tokens artifact: the rows in file order."""

    index: pd.DataFrame
    """split, row_id."""
    rows: "TokenRows"
    """Token ids; as many texts a row as the task has options."""

    def where(self, mask_N: "np.ndarray[Any, Any]") -> "TokenTable":
        """The rows for which the mask holds."""
        chosen = np.flatnonzero(mask_N)
        return TokenTable(self.index.iloc[chosen].reset_index(drop=True), self.rows.take(chosen))


def read_tokens(folder: Path) -> TokenTable:
    """Read a tokens artifact; the ids stay in the file until they are used."""
    import torch
    from safetensors.torch import load_file

    from w2s.training.batching import TokenRows

    index = pd.read_parquet(folder / INDEX_FILE)
    arrays = load_file(folder / TOKENS_FILE)
    lengths = arrays["lengths"].numpy().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    return TokenTable(
        index,
        TokenRows(
            ids=arrays["ids"],
            starts=torch.from_numpy(starts),
            lengths=lengths,
            pad_id=int(arrays["pad_id"]),
            texts_per_row=len(lengths) // len(index),
        ),
    )
