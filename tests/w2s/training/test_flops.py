"""Counted arithmetic against what the widths of a model give by hand."""

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTModel

from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.batching import TokenRows
from w2s.training.config import TrainConfig
from w2s.training.flops import training_flops

WIDTH, INNER, CLASSES = 64, 96, 2


def flops(lengths: list[int], epochs: int = 1, batch_size: int = 1) -> float:
    """Of finetuning a classifier with one block on texts of some lengths."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=INNER,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=64,
    )
    classifier = Classifier.fresh(prepare_backbone(OPTModel(config)), CLASSES)
    rows = TokenRows.from_lists([[1] * length for length in lengths])
    train = TrainConfig(epochs=epochs, batch_size=batch_size)
    return training_flops(classifier, rows, train, seed=0, device="cpu")


def test_one_token_costs_six_operations_a_weight() -> None:
    """Two forward, four backward; attention of one token to itself is next to nothing."""
    num_weights = 4 * WIDTH**2 + 2 * WIDTH * INNER + WIDTH * CLASSES
    assert flops([1]) == pytest.approx(6 * num_weights, rel=0.01)


def test_attention_is_counted() -> None:
    """Seven products of T x T x D: two forward, five backward with the recomputed scores."""
    length = 48
    tokenwise = 6 * length * (4 * WIDTH**2 + 2 * WIDTH * INNER) + 6 * WIDTH * CLASSES
    attention = 7 * 2 * length**2 * WIDTH
    assert flops([length]) == pytest.approx(tokenwise + attention, rel=0.01)


def test_rows_epochs_and_padding_count() -> None:
    one = flops([10])
    assert flops([10] * 6, epochs=2, batch_size=4) == pytest.approx(12 * one)
    # Beside a text of 10 tokens, one of 2 is padded to 10.
    assert flops([10, 2], batch_size=2) == pytest.approx(2 * one)
    assert flops([10, 2]) < 1.5 * one


def test_it_leaves_no_gradient() -> None:
    classifier = Classifier.fresh(
        prepare_backbone(
            OPTModel(
                OPTConfig(
                    vocab_size=8,
                    hidden_size=8,
                    word_embed_proj_dim=8,
                    ffn_dim=8,
                    num_hidden_layers=1,
                    num_attention_heads=1,
                )
            )
        ),
        2,
    )
    rows = TokenRows.from_lists([[1, 2]])
    before = np.concatenate([p.detach().numpy().ravel() for p in classifier.parameters()])
    training_flops(classifier, rows, TrainConfig(), seed=0, device="cpu")
    after = np.concatenate([p.detach().numpy().ravel() for p in classifier.parameters()])
    np.testing.assert_array_equal(before, after)
    assert all(parameter.grad is None for parameter in classifier.parameters())
