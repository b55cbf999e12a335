"""Token rows and the plans of batches."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from w2s.training.batching import (
    TokenRows,
    collate,
    cut_update,
    padding_share,
    plan_inference,
    plan_updates,
    tokenize,
)
from w2s.training.parallel import Replicas


@pytest.fixture
def lengths() -> np.ndarray:
    return np.random.default_rng(0).integers(20, 121, size=1000)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Words a to f are ids 0 to 5; a text starts with <s>."""
    vocabulary = {word: index for index, word in enumerate([*"abcdef", "<s>", "<pad>", "<unk>"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 6)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", pad_token="<pad>", unk_token="<unk>"
    )


def row_of(rows: TokenRows, index: int) -> list[int]:
    start = int(rows.starts[index])
    return rows.ids[start : start + int(rows.lengths[index])].tolist()


def test_each_row_comes_once_an_epoch(lengths: np.ndarray) -> None:
    updates = plan_updates(lengths, batch_size=32, epochs=3, seed=0)
    assert len(updates) == 3 * 32
    for epoch in range(3):
        seen = np.concatenate(updates[epoch * 32 : (epoch + 1) * 32])
        assert sorted(seen) == list(range(1000))


def test_padding_is_under_five_percent(lengths: np.ndarray) -> None:
    updates = plan_updates(lengths, batch_size=32, epochs=5, seed=0)
    assert padding_share(lengths, updates) < 0.05
    mixed = [np.arange(1000)[start : start + 32] for start in range(0, 1000, 32)]
    assert padding_share(lengths, mixed) > 0.3


def test_batches_differ_between_epochs_and_seeds(lengths: np.ndarray) -> None:
    first, second = (plan_updates(lengths, batch_size=32, epochs=2, seed=seed) for seed in (0, 1))
    for other in (first[32:], second[:32]):
        # Most of an update's rows have not been together before.
        shared = [max(len(np.intersect1d(a, b)) for b in other) / len(a) for a in first[:32]]
        assert np.mean(shared) < 0.55


def test_equal_seeds_give_equal_plans(lengths: np.ndarray) -> None:
    first, second = (plan_updates(lengths, batch_size=32, epochs=2, seed=7) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_lengths_come_in_random_order(lengths: np.ndarray) -> None:
    updates = plan_updates(lengths, batch_size=32, epochs=1, seed=0)
    longest = [int(lengths[update].max()) for update in updates]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.5


def test_inference_goes_from_long_to_short_within_the_budget(lengths: np.ndarray) -> None:
    batches = plan_inference(lengths, max_tokens=2048, max_rows=40)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert all(len(batch) * lengths[batch].max() <= 2048 for batch in batches)
    assert max(len(batch) for batch in batches) == 40
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_row_beyond_the_budget_is_a_batch_of_its_own() -> None:
    batches = plan_inference(np.array([5, 100, 5]), max_tokens=20, max_rows=None)
    assert [batch.tolist() for batch in batches] == [[1], [0, 2]]


def test_collate_pads_on_the_right() -> None:
    rows = TokenRows.from_lists([[1, 2, 3], [4], [5, 6]], pad_id=9)
    ids, mask = collate(rows, np.array([2, 0, 1]), "cpu")
    assert ids.tolist() == [[5, 6, 9], [1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]


def test_collate_of_equal_lengths_has_no_padding() -> None:
    rows = TokenRows.from_lists([[1, 2], [3, 4], [5]], pad_id=9)
    ids, mask = collate(rows, np.array([1, 0]), "cpu")
    assert ids.tolist() == [[3, 4], [1, 2]]
    assert torch.equal(mask, torch.ones(2, 2, dtype=torch.long))


def test_row_without_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has no token"):
        TokenRows.from_lists([[1], []])


def test_long_text_keeps_its_end_and_its_special_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = tokenize(tokenizer, ["a b c d e f", "a b"], max_length=4)
    assert row_of(rows, 0) == [6, 3, 4, 5]
    assert row_of(rows, 1) == [6, 0, 1]
    assert rows.pad_id == 7


def test_tokenizer_is_left_as_it_was(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.truncation_side = "right"
    tokenize(tokenizer, ["a b c d"], max_length=2)
    assert tokenizer.truncation_side == "right"
    assert len(tokenizer("a b c d")["input_ids"]) == 5


def test_empty_text_is_one_token() -> None:
    raw = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    rows = tokenize(tokenizer, ["", "a"], max_length=4)
    assert [row_of(rows, 0), row_of(rows, 1)] == [[1], [0]]


def cuts(
    update: list[int], replicas: Replicas, rows: int | None = None, tokens: int | None = None
) -> list[tuple[list[int], float]]:
    """Rows and weight of each part; row i has i tokens."""
    found = cut_update(
        np.array(update, dtype=np.int64),
        np.arange(30),
        replicas,
        max_rows=rows,
        max_tokens=tokens,
    )
    return [(cut.rows_B.tolist(), cut.weight) for cut in found]


def test_parts_of_an_update_hold_so_many_tokens_with_padding() -> None:
    alone = Replicas()
    # 2 x 3 = 6 tokens; with the row of 4 it would be 12.
    found = cuts([2, 3, 4, 5, 20, 1, 1, 1], alone, tokens=8)
    assert [part for part, _ in found] == [[2, 3], [4], [5], [20], [1, 1, 1]]
    assert {weight for _, weight in found} == {1 / 8}
    both = cuts([2, 3, 4, 5, 20, 1, 1, 1], alone, rows=2, tokens=8)
    assert [part for part, _ in both] == [[2, 3], [4], [5], [20], [1, 1], [1]]
    assert cuts([2, 3, 4], alone) == [([2, 3, 4], 1 / 3)]
    assert cuts([2, 3, 4], alone, rows=2) == [([2, 3], 1 / 3), ([4], 1 / 3)]


def test_a_replica_without_rows_goes_through_one_that_counts_nothing() -> None:
    assert cuts([7], Replicas(0, 2)) == [([7], 0.0)]
    assert cuts([7], Replicas(1, 2)) == [([7], 1.0)]


def test_replicas_that_share_a_model_out_make_equally_many_passes() -> None:
    update = [2, 3, 4, 5, 6]
    first, second = (cuts(update, Replicas(rank, 2, shards=True), rows=2) for rank in range(2))
    assert first == [([2, 3], 0.2), ([2], 0.0)]
    assert second == [([4, 5], 0.2), ([6], 0.2)]
    assert cuts(update, Replicas(0, 2), rows=2) == [([2, 3], 0.2)]
    first, second = (cuts(update, Replicas(rank, 2, shards=True), tokens=6) for rank in range(2))
    assert first == [([2, 3], 0.2), ([2], 0.0), ([2], 0.0)]
    assert second == [([4], 0.2), ([5], 0.2), ([6], 0.2)]
