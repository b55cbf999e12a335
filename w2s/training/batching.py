"""Token rows, and how they are cut into batches with little padding.

* `TokenRows`: texts as token ids, all in one flat tensor; `tokenize` makes them.
* `plan_updates` and `plan_inference`: which rows each batch takes: random, or sorted by length.
* `cut_update`: the parts of an update that a replica goes through one after the other.
* `collate`: rows -> padded ids and mask, without a Python loop over rows.

T tokens, B rows of a batch, N rows in all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.heads import padding_id, token_ids
from w2s.training.parallel import Replicas

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_POOL_BATCHES = 32
"""Batches whose rows are sorted together, at most. Batches of 32 texts of 20 to 120 tokens then
waste 2 % of their tokens; with 16 it is 4 %, with 8 it is 9 %."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """N texts as token ids, one after the other in a flat tensor."""

    ids: Tensor
    """int32 or int64 [sum of lengths]; may be a mapped file."""
    starts: Tensor
    """int64 [N]: where each row begins in `ids`."""
    lengths: NDArray[np.int64]
    """Tokens of each row [N], at least 1."""
    pad_id: int
    """Fills the places that the mask hides; any id of the vocabulary will do."""
    texts_per_row: int = 1
    """K texts of each row stand beside each other where a row is a choice among whole texts; `ids`,
    `starts` and `lengths` then hold N x K texts."""

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]], pad_id: int = 0) -> "TokenRows":
        """Token ids as lists, e.g. from a tokenizer.

        Raises:
            ValueError: a row has no token.
        """
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        if len(rows) and lengths.min() < 1:
            raise ValueError(
                f"row {int(lengths.argmin())} has no token: the head would have none to read"
            )
        flat = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(rows) else lengths
        return cls(
            torch.from_numpy(flat), torch.from_numpy(starts.astype(np.int64)), lengths, pad_id
        )

    def __len__(self) -> int:
        return len(self.lengths) // self.texts_per_row

    def take(self, rows: NDArray[np.int64]) -> "TokenRows":
        """Some of the rows, in the given order; the token ids themselves are shared."""
        texts = self.texts_of(rows)
        return replace(
            self, starts=self.starts[torch.from_numpy(texts)], lengths=self.lengths[texts]
        )

    def texts_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the texts of some rows, row by row."""
        if self.texts_per_row == 1:
            return rows
        return (rows[:, None] * self.texts_per_row + np.arange(self.texts_per_row)).ravel()

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of the longest text of each row [N]."""
        return self.lengths.reshape(-1, self.texts_per_row).max(1)


def tokenize(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int
) -> TokenRows:
    """Tokenize texts with the tokenizer's own special tokens; a long text loses tokens on the left.

    The special tokens at either end stay. A text without any token gets one special token.

    Args:
        tokenizer: of the model that will read the rows.
        texts: N texts.
        max_length: most tokens of a row (see `Classifier.max_length` for the model's own limit).
    """
    rows = token_ids(tokenizer, texts, max_length)
    return TokenRows.from_lists(rows, pad_id=padding_id(tokenizer))


def plan_updates(
    lengths: NDArray[np.int64], *, batch_size: int, epochs: int, seed: int
) -> list[NDArray[np.int64]]:
    """Row indices of every optimizer step of a training.

    Each epoch shuffles all rows, deals them into pools of at most `MAX_POOL_BATCHES` batches and at
    most half of all batches, sorts each pool by length, cuts it into batches, and shuffles the
    batches. So the rows of an update are of similar length and drawn afresh each epoch (one pool
    of everything would give the same batches each time), and lengths come in random order. Each row
    comes once an epoch; the last batch of a pool may be smaller.

    Args:
        lengths: tokens of each row [N].
        batch_size: rows an update.
        epochs: passes over the rows.
        seed: equal seeds give equal plans, on every replica.
    """
    rng = np.random.default_rng(seed)
    updates: list[NDArray[np.int64]] = []
    num_batches = math.ceil(len(lengths) / batch_size)
    pool_size = batch_size * min(MAX_POOL_BATCHES, math.ceil(num_batches / 2))
    for _ in range(epochs):
        order = rng.permutation(len(lengths))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), pool_size):
            pool = order[start : start + pool_size]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            batches.extend(pool[i : i + batch_size] for i in range(0, len(pool), batch_size))
        updates.extend(batches[i] for i in rng.permutation(len(batches)))
    return updates


class Cut(NamedTuple):
    """A part of an update."""

    rows_B: NDArray[np.int64]
    """Numbers of its rows."""
    weight: float
    """Of each row in the mean over the update; 0: the replica only keeps step with others."""


def cut_update(
    update: NDArray[np.int64],
    lengths: NDArray[np.int64],
    replicas: Replicas,
    *,
    max_rows: int | None,
    max_tokens: int | None,
) -> list[Cut]:
    """The parts of an update that one replica goes through, in order.

    Its own rows come first, each once. A replica without any row gets one that counts nothing, and
    where the model is shared out all replicas get the same number of parts: they send the same
    messages.

    Args:
        update: row numbers, of all replicas.
        lengths: tokens of each row of the data set [N].
        replicas: those that share the update.
        max_rows: most rows of a part; None: no limit.
        max_tokens: most tokens of a part, padding included (a single longer row is a part of its
            own); None: no limit.
    """

    def parts_of(rank: int) -> list[NDArray[np.int64]]:
        own = update[Replicas(rank, replicas.size).slice(len(update))]
        return _filled(own, lengths[own], max_rows, max_tokens)

    parts = parts_of(replicas.rank)
    everyone = range(replicas.size) if replicas.sharded else ()
    number = max([1, len(parts), *(len(parts_of(rank)) for rank in everyone)])
    idle = [Cut(update[:1], 0.0)] * (number - len(parts))
    return [Cut(part, 1 / len(update)) for part in parts] + idle


def _filled(
    rows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    max_rows: int | None,
    max_tokens: int | None,
) -> list[NDArray[np.int64]]:
    """Rows in their order, each part as large as it may be."""
    if max_tokens is None:
        size = max_rows or max(1, len(rows))
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    starts: list[int] = []
    longest = 0
    for place, length in enumerate(lengths.tolist()):
        count = place - starts[-1] + 1 if starts else 0
        longest = max(longest, length)
        if not starts or count * longest > max_tokens or (max_rows and count > max_rows):
            starts.append(place)
            longest = length
    return [part for part in np.split(rows, starts) if len(part)]


def plan_inference(
    lengths: NDArray[np.int64], *, max_tokens: int, max_rows: int | None
) -> list[NDArray[np.int64]]:
    """Row indices of each inference batch: by length, longest first: lack of memory shows at once.

    Args:
        lengths: tokens of each row [N].
        max_tokens: most tokens of a batch, padding included (a single longer row is a batch of its
            own).
        max_rows: most rows of a batch; None: no limit.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        count = max(1, max_tokens // int(lengths[order[start]]))
        if max_rows is not None:
            count = min(count, max_rows)
        batches.append(order[start : start + count])
        start += count
    return batches


def collate(rows: TokenRows, indices: NDArray[np.int64], device: str) -> tuple[Tensor, Tensor]:
    """Pad rows on the right.

    Returns:
        `input_ids_BT` and `attention_mask_BT` (1 on real tokens), int64, on the device; with K
        texts a row, the texts of a row follow one another, [B x K, T].
    """
    indices = rows.texts_of(indices)
    lengths = rows.lengths[indices]
    longest = int(lengths.max())
    index = torch.from_numpy(indices)
    starts_B1 = rows.starts[index].unsqueeze(1)
    if int(lengths.min()) == longest:
        input_ids_BT = rows.ids[starts_B1 + torch.arange(longest)].long()
        mask_BT = torch.ones_like(input_ids_BT)
    else:
        place_T = torch.arange(longest)
        real_BT = place_T < torch.from_numpy(lengths).unsqueeze(1)
        flat_BT = torch.where(real_BT, starts_B1 + place_T, 0)
        input_ids_BT = torch.where(real_BT, rows.ids[flat_BT].long(), rows.pad_id)
        mask_BT = real_BT.long()
    return to_device(input_ids_BT, device), to_device(mask_BT, device)


def padding_share(lengths: NDArray[np.int64], batches: Sequence[NDArray[np.int64]]) -> float:
    """Share of the tokens of the given batches that is padding."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - sum(int(lengths[batch].sum()) for batch in batches) / padded


def to_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the CPU on a device; nobody waits for the copy."""
    if device == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
