"""Generalised cross-entropy against hand-worked numbers and its two ends."""

import math

import numpy as np
import pytest
import torch

from tests.w2s.losses.toy import apply, random_case
from w2s.losses.generalized_xent import GeneralizedXent
from w2s.losses.xent import Xent


def test_it_equals_hand_worked_numbers() -> None:
    # P = (1/4, 3/4), q = 1/2: (1 - 1/2) / (1/2) = 1 for class 0, 2 - sqrt(3) for class 1.
    logits = torch.tensor([[0.0, math.log(3)]] * 3)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    output, _ = apply(GeneralizedXent(q=0.5), logits, labels)
    second = 2 - math.sqrt(3)
    assert output.losses_B.tolist() == pytest.approx([1, second, 0.25 + 0.75 * second])


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_it_is_the_papers_formula(q: float) -> None:
    logits, labels = random_case()
    p = logits.double().softmax(1).numpy()
    expected = (labels.double().numpy() * (1 - np.power(p, q)) / q).sum(1)
    output, gradient = apply(GeneralizedXent(q=q), logits, labels)
    np.testing.assert_allclose(output.losses_B.numpy(), expected, rtol=1e-4)
    # dL/dz_j = p_j sum_c y_c p_c^q - y_j p_j^q.
    powers = labels.double().numpy() * np.power(p, q)
    np.testing.assert_allclose(
        gradient.numpy(), p * powers.sum(1, keepdims=True) - powers, atol=1e-6
    )


def test_small_q_is_cross_entropy() -> None:
    logits, labels = random_case()
    output, gradient = apply(GeneralizedXent(q=1e-5), logits, labels)
    cross_entropy, cross_entropy_gradient = apply(Xent(), logits, labels)
    torch.testing.assert_close(output.losses_B, cross_entropy.losses_B, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradient, cross_entropy_gradient, rtol=1e-3, atol=1e-4)


def test_q_of_one_is_half_the_absolute_error_of_a_hard_label() -> None:
    logits, labels = random_case()
    hard = torch.eye(3)[labels.argmax(1)]
    output, _ = apply(GeneralizedXent(q=1), logits, hard)
    torch.testing.assert_close(output.losses_B, (logits.softmax(1) - hard).abs().sum(1) / 2)


def test_a_label_that_the_student_finds_absurd_pulls_less_than_in_cross_entropy() -> None:
    logits, wrong = torch.tensor([[6.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    _, gradient = apply(GeneralizedXent(), logits, wrong)
    _, of_cross_entropy = apply(Xent(), logits, wrong)
    assert gradient.abs().max() < 0.02 * of_cross_entropy.abs().max()
