"""Cross-entropy against hand-worked numbers."""

import math

import pytest
import torch
from torch import Tensor, nn

from w2s.losses.base import Batch
from w2s.losses.xent import Xent, harden


class Constant(nn.Module):
    """Gives the same logits whatever it reads."""

    def __init__(self, logits_BC: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_BC)

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        return self.logits


def loss_of(loss: Xent, targets: list[list[float]]) -> float:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # P = (1/4, 3/4), (1/2, 1/2)
    ids = torch.zeros(2, 1, dtype=torch.long)
    return float(
        loss(Constant(logits), Batch(ids, ids + 1, torch.tensor(targets)), 0.0).loss.detach()
    )


def test_soft_labels_weigh_the_classes() -> None:
    expected = -(0.6 * math.log(0.25) + 0.4 * math.log(0.75) + math.log(0.5)) / 2
    assert loss_of(Xent(), [[0.6, 0.4], [0.1, 0.9]]) == pytest.approx(expected)


def test_hard_labels_take_the_most_probable_class() -> None:
    expected = -(math.log(0.25) + math.log(0.5)) / 2
    assert loss_of(Xent(hard=True), [[0.6, 0.4], [0.1, 0.9]]) == pytest.approx(expected)


def test_first_of_equal_classes_wins() -> None:
    assert harden(torch.tensor([[0.5, 0.5]])).tolist() == [[1.0, 0.0]]
