"""Cross-entropy against hand-worked numbers."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from tests.w2s.losses.toy import apply, random_case
from w2s.losses.xent import Xent, harden

LOGITS = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # P = (1/4, 3/4), (1/2, 1/2)
LABELS = torch.tensor([[0.6, 0.4], [0.1, 0.9]])


def losses_of(loss: Xent) -> list[float]:
    return apply(loss, LOGITS, LABELS)[0].losses_B.tolist()


def test_soft_labels_weigh_the_classes() -> None:
    first = -(0.6 * math.log(0.25) + 0.4 * math.log(0.75))
    assert losses_of(Xent()) == pytest.approx([first, math.log(2)])


def test_hard_labels_take_the_most_probable_class() -> None:
    assert losses_of(Xent(hard=True)) == pytest.approx([math.log(4), math.log(2)])


def test_first_of_equal_classes_wins() -> None:
    assert harden(torch.tensor([[0.5, 0.5]])).tolist() == [[1.0, 0.0]]


def test_smoothing_moves_hard_labels_towards_all_classes() -> None:
    # (1, 0) becomes (.9, .1) when a fifth is shared out.
    first = -(0.9 * math.log(0.25) + 0.1 * math.log(0.75))
    found = losses_of(Xent(hard=True, label_smoothing=0.2))
    assert found == pytest.approx([first, math.log(2)])


@pytest.mark.parametrize("amount", [0.0, 0.1])
def test_smoothed_loss_mixes_in_the_mean_over_classes(amount: float) -> None:
    logits, labels = random_case()
    logprobs, soft = log_softmax(logits.numpy(), axis=1), labels.numpy()
    expected = -(1 - amount) * (soft * logprobs).sum(1) - amount * np.mean(logprobs, 1)
    output, _ = apply(Xent(label_smoothing=amount), logits, labels)
    np.testing.assert_allclose(output.losses_B.numpy(), expected, rtol=2e-6)
