"""The product loss against hand-worked numbers."""

import math

import numpy as np
import pytest
import torch

from tests.w2s.losses.toy import apply, random_case
from w2s.losses.product import Product, product_loss, product_targets


def test_target_equals_a_hand_worked_product() -> None:
    # (1/4 * 2/5, 3/4 * 3/5) = (2/20, 9/20), renormalised.
    logits = torch.tensor([[0.0, math.log(3)]])
    target = product_targets(logits, torch.tensor([[0.4, 0.6]]), alpha=1, beta=1)
    assert target[0].tolist() == pytest.approx([2 / 11, 9 / 11])


def test_powers_enter_as_exponents() -> None:
    logits = torch.tensor([[0.0, math.log(4)]])
    target = product_targets(logits, torch.tensor([[0.1, 0.9]]), alpha=2, beta=0.5)
    raw = [0.2**0.5 * 0.1**2, 0.8**0.5 * 0.9**2]
    assert target[0].tolist() == pytest.approx([value / sum(raw) for value in raw])


def test_uniform_weak_label_teaches_nothing() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.1]], requires_grad=True)
    product_loss(logits, torch.full((2, 2), 0.5), alpha=1, beta=1).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_without_the_student_it_is_cross_entropy() -> None:
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.1]])
    weak = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    expected = -(weak * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(product_loss(logits, weak, alpha=1, beta=0), expected)


def test_gradient_is_that_of_a_constant_target() -> None:
    logits = torch.tensor([[0.3, -1.0]], requires_grad=True)
    weak = torch.tensor([[0.3, 0.7]])
    product_loss(logits, weak, alpha=1, beta=1).sum().backward()
    target = product_targets(logits, weak, alpha=1, beta=1)
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - target)


def test_one_hot_weak_label_decides() -> None:
    target = product_targets(torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1, 1)
    assert target[0].tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (2, 0.5), (0, 1)])
def test_it_is_the_published_formula(alpha: float, beta: float) -> None:
    logits, weak = random_case()
    p = logits.double().softmax(1).numpy()
    product = p**beta * weak.double().numpy() ** alpha
    expected = -(product / product.sum(1, keepdims=True) * np.log(p)).sum(1)
    output, _ = apply(Product(alpha=alpha, beta=beta), logits, weak)
    np.testing.assert_allclose(output.losses_B.numpy(), expected, rtol=1e-5, atol=1e-6)
