"""OpenAI's published confidence loss: its formula in numpy, and each of its quirks."""

import numpy as np
import pytest
import torch

from tests.w2s.losses.toy import apply, random_case, two_class
from w2s.errors import UserError
from w2s.losses.confidence import Confidence
from w2s.losses.confidence_openai import (
    ConfidenceOpenAI,
    harden_at,
    published_weight,
    quantile_threshold,
)


def published(logits: np.ndarray, weak: np.ndarray, progress: float) -> np.ndarray:
    """The formula as it was described, in float64."""
    weight = 0.5 if progress > 0.1 else 0.5 * progress
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p0 = p[:, 0]
    threshold = np.quantile(p0, weak.mean(0)[1])
    hard = np.stack([p0 >= threshold, p0 < threshold], 1)
    return -((weak * (1 - weight) + hard * weight) * np.log(p)).sum(1)


def test_weight_climbs_to_a_twentieth_and_jumps_to_a_half() -> None:
    weights = [published_weight(progress, 0.5, 0.1) for progress in (0, 0.05, 0.1, 0.101, 1)]
    assert weights == pytest.approx([0, 0.025, 0.05, 0.5, 0.5])


def test_threshold_is_the_interpolated_quantile() -> None:
    logits = two_class([0.9, 0.6, 0.4, 0.1]).log()  # P(class 0) = .1, .4, .6, .9
    assert float(quantile_threshold(logits, two_class([0.5] * 4))) == pytest.approx(0.5)
    # Place .75 between the first two: .1 + .75 x .3.
    assert float(quantile_threshold(logits, two_class([0.25] * 4))) == pytest.approx(0.325)


def test_rows_at_the_threshold_are_of_class_0() -> None:
    # All labels say class 1, yet the row with the largest P(class 0) is the quantile itself.
    logits = two_class([0.9, 0.6, 0.4, 0.1]).log()
    hard = harden_at(logits, quantile_threshold(logits, two_class([1.0] * 4)))
    assert hard.argmax(1).tolist() == [1, 1, 1, 0]


def test_saturated_rows_are_hardened_alike() -> None:
    # P(class 0) is 0.0 in float32 for all; the paper's loss still tells them apart.
    logits = torch.tensor([[0.0, 200.0], [0.0, 201.0], [0.0, 202.0], [0.0, 203.0]])
    hard = harden_at(logits, quantile_threshold(logits, two_class([0.5] * 4)))
    assert hard.argmax(1).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("progress", [0.0, 0.07, 0.1, 0.11, 1.0])
def test_it_is_the_published_formula(progress: float) -> None:
    logits, weak = random_case(rows=33, classes=2)
    output, _ = apply(ConfidenceOpenAI(), logits, weak, progress)
    expected = published(logits.double().numpy(), weak.double().numpy(), progress)
    np.testing.assert_allclose(output.losses_B.numpy(), expected, rtol=1e-5)


def test_after_both_warmups_it_is_the_papers_loss_on_balanced_labels() -> None:
    logits, weak = random_case(rows=32, classes=2)
    weak = torch.cat([weak[:16], weak[:16].flip(1)])
    ours, our_gradient = apply(Confidence(max_weight=0.5), logits, weak)
    theirs, their_gradient = apply(ConfidenceOpenAI(), logits, weak)
    torch.testing.assert_close(theirs.losses_B, ours.losses_B)
    torch.testing.assert_close(their_gradient, our_gradient)


def test_three_classes_are_refused_with_a_way_out() -> None:
    with pytest.raises(UserError, match="2 classes; the task has 3; use 'confidence'"):
        ConfidenceOpenAI().check_classes(3)
