"""The entropy losses: hand-worked numbers, closed-form gradients, and what they do to a student."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from tests.w2s.losses.toy import apply, random_case, two_class
from w2s.losses.entropy import Entropy, Form, entropy
from w2s.losses.xent import Xent


def test_entropy_is_that_of_the_prediction() -> None:
    logits, _ = random_case()
    np.testing.assert_allclose(
        entropy(logits), scipy_entropy(logits.softmax(1).numpy(), axis=1), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # P = (1/4, 3/4), weak (.6, .4), weight 1/2: target (.425, .575) or the two terms.
        ("mixture", -(0.425 * math.log(0.25) + 0.575 * math.log(0.75))),
        ("mixture_detached", -(0.425 * math.log(0.25) + 0.575 * math.log(0.75))),
        (
            "penalty",
            -(0.6 * math.log(0.25) + 0.4 * math.log(0.75))
            - (0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 2,
        ),
        # 1/4 - (3/4 - 1/2)^2 = 3/16.
        ("squared", -(0.6 * math.log(0.25) + 0.4 * math.log(0.75)) + 3 / 32),
    ],
)
def test_losses_equal_hand_worked_numbers(form: Form, expected: float) -> None:
    output, _ = apply(
        Entropy(form=form), torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.6, 0.4]])
    )
    assert output.losses_B.tolist() == pytest.approx([expected])


def test_mixture_lets_the_gradient_through_its_target() -> None:
    # CE(f, y) gives p - y, the entropy H gives -p (ln p + H).
    logits, weak = random_case()
    _, gradient = apply(Entropy(weight=0.3), logits, weak)
    p = logits.softmax(1)
    of_entropy = -p * (p.log() + entropy(logits).unsqueeze(1))
    torch.testing.assert_close(gradient, 0.7 * (p - weak) + 0.3 * of_entropy, atol=1e-6, rtol=1e-4)


def test_detached_mixture_is_cross_entropy_with_a_smaller_gradient() -> None:
    logits, weak = random_case()
    _, gradient = apply(Entropy(form="mixture_detached", weight=0.3), logits, weak)
    _, of_cross_entropy = apply(Xent(), logits, weak)
    torch.testing.assert_close(gradient, 0.7 * of_cross_entropy, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("form", ["mixture", "penalty", "squared"])
def test_the_term_makes_an_unsure_student_surer_of_its_side(form: Form) -> None:
    # Student and label agree on .7: cross-entropy is content, the term pulls class 1 up.
    p = two_class([0.7])
    _, gradient = apply(Entropy(form=form), p.log(), p)
    assert gradient[0, 1] < -0.01


def test_weight_rises_over_the_warmup() -> None:
    logits, weak = random_case()
    loss = Entropy(form="penalty", weight=0.4, warmup_fraction=0.2)
    start, half, end = (
        apply(loss, logits, weak, progress)[0].losses_B for progress in (0, 0.1, 0.2)
    )
    torch.testing.assert_close(start, apply(Xent(), logits, weak)[0].losses_B)
    torch.testing.assert_close(half - start, 0.2 * entropy(logits))
    torch.testing.assert_close(end - start, 0.4 * entropy(logits))
