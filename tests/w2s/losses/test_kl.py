"""KL from the weak labels to the student."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from tests.w2s.losses.toy import apply, random_case
from w2s.losses.kl import KL
from w2s.losses.xent import Xent


def test_it_equals_a_hand_worked_number() -> None:
    # P = (1/4, 3/4), weak (1/2, 1/2): (ln 2 + ln 2/3) / 2.
    output, _ = apply(KL(), torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.5, 0.5]]))
    assert output.losses_B.tolist() == pytest.approx([math.log(4 / 3) / 2])


def test_it_is_the_divergence_of_two_distributions() -> None:
    logits, weak = random_case()
    expected = kl_divergence(Categorical(probs=weak), Categorical(logits=logits))
    torch.testing.assert_close(apply(KL(), logits, weak)[0].losses_B, expected)


def test_it_is_zero_for_a_student_that_agrees() -> None:
    _, weak = random_case()
    output, gradient = apply(KL(), weak.log(), weak)
    assert output.losses_B.abs().max() < 1e-6
    assert gradient.abs().max() < 1e-6


def test_it_teaches_what_cross_entropy_does_and_lacks_the_labels_entropy() -> None:
    logits, weak = random_case()
    output, gradient = apply(KL(), logits, weak)
    cross_entropy, cross_entropy_gradient = apply(Xent(), logits, weak)
    torch.testing.assert_close(gradient, cross_entropy_gradient)
    torch.testing.assert_close(
        cross_entropy.losses_B - output.losses_B, Categorical(probs=weak).entropy()
    )


def test_one_hot_labels_make_it_cross_entropy() -> None:
    logits, weak = random_case()
    hard = torch.eye(3)[weak.argmax(1)]
    torch.testing.assert_close(
        apply(KL(), logits, hard)[0].losses_B, apply(Xent(), logits, hard)[0].losses_B
    )
