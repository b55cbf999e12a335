"""Pairwise loss: binary cross-entropy on reward differences."""

import math

import pytest
import torch

from tests.w2s.losses.toy import apply, random_case
from w2s.errors import UserError
from w2s.losses.pairwise import Pairwise
from w2s.losses.xent import Xent


def test_it_equals_a_hand_worked_number() -> None:
    # Rewards differ by ln 3, so P(second) = 3/4; it is preferred with probability .4.
    output, gradient = apply(
        Pairwise(), torch.tensor([[1.0, 1.0 + math.log(3)]]), torch.tensor([[0.6, 0.4]])
    )
    expected = -(0.6 * math.log(0.25) + 0.4 * math.log(0.75))
    assert output.losses_B.tolist() == pytest.approx([expected])
    assert gradient[0].tolist() == pytest.approx([-0.35, 0.35])
    # The first text is the preferred one, and its reward is ln 3 behind.
    assert float(output.metrics["reward_margin"]) == pytest.approx(-math.log(3))


def test_it_is_cross_entropy_on_the_two_rewards() -> None:
    rewards, preferred = random_case(classes=2)
    output, gradient = apply(Pairwise(), rewards, preferred)
    cross_entropy, cross_entropy_gradient = apply(Xent(), rewards, preferred)
    torch.testing.assert_close(output.losses_B, cross_entropy.losses_B)
    torch.testing.assert_close(gradient, cross_entropy_gradient)


def test_only_the_difference_of_rewards_counts() -> None:
    rewards, preferred = random_case(classes=2)
    output, _ = apply(Pairwise(), rewards, preferred)
    moved, _ = apply(Pairwise(), rewards + 3, preferred)
    torch.testing.assert_close(moved.losses_B, output.losses_B, atol=1e-6, rtol=1e-5)


def test_order_of_the_two_texts_does_not_matter() -> None:
    rewards, preferred = random_case(classes=2)
    output, _ = apply(Pairwise(), rewards, preferred)
    swapped, _ = apply(Pairwise(), rewards.flip(1), preferred.flip(1))
    torch.testing.assert_close(swapped.losses_B, output.losses_B)


def test_three_texts_are_refused_with_a_way_out() -> None:
    with pytest.raises(UserError, match="2 classes; the task has 3; use 'xent'"):
        Pairwise().check_classes(3)
