"""KL from the student to the weak labels."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from tests.w2s.losses.toy import apply, random_case, two_class
from w2s.losses.reverse_kl import ReverseKL, clamp_labels


def test_it_equals_a_hand_worked_number() -> None:
    # P = (1/4, 3/4), weak (1/2, 1/2): 1/4 ln 1/2 + 3/4 ln 3/2.
    output, _ = apply(ReverseKL(), torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.5, 0.5]]))
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert output.losses_B.tolist() == pytest.approx([expected])


def test_it_is_the_relative_entropy_of_the_student() -> None:
    logits, weak = random_case()
    expected = entropy(logits.softmax(1).numpy(), weak.numpy(), axis=1)
    output, _ = apply(ReverseKL(), logits, weak)
    np.testing.assert_allclose(output.losses_B.numpy(), expected, rtol=2e-4)


def test_its_gradient_goes_through_the_student_in_both_terms() -> None:
    # d/dz_i sum_c p_c (ln p_c - ln w_c) = p_i (ln p_i - ln w_i - L).
    logits, weak = random_case()
    output, gradient = apply(ReverseKL(), logits, weak)
    p = logits.softmax(1)
    expected = p * (p.log() - weak.log() - output.losses_B.unsqueeze(1))
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_labels_are_raised_to_the_floor_and_scaled() -> None:
    clamped = clamp_labels(torch.tensor([[0.0, 1.0], [0.3, 0.7]]), 0.05)
    assert clamped[0].tolist() == pytest.approx([0.05 / 1.05, 1 / 1.05])
    assert clamped[1].tolist() == pytest.approx([0.3, 0.7])


def test_a_class_that_the_label_rules_out_costs_the_logarithm_of_the_floor() -> None:
    # A student sure of class 0 pays -ln of that class's clamped share.
    output, _ = apply(
        ReverseKL(min_probability=1e-3), torch.tensor([[40.0, -40.0]]), torch.tensor([[0.0, 1.0]])
    )
    assert output.losses_B.tolist() == pytest.approx([math.log(1.001 / 1e-3)])


def test_a_student_surer_than_its_label_pays_less_than_under_kl() -> None:
    # Label .6, student .99: .99 ln(.99/.6) + .01 ln(.01/.4) = .46 against 1.17 the other way round.
    logits, weak = two_class([0.99]).log(), two_class([0.6])
    forward = (weak * (weak.log() - logits)).sum()
    assert float(apply(ReverseKL(), logits, weak)[0].losses_B) < 0.5 * float(forward)
