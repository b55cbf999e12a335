"""The confidence loss against hand-worked numbers and the paper's two ways of writing it."""

import math

import pytest
import torch
from pydantic import ValidationError

from tests.w2s.losses.toy import apply, random_case, two_class
from w2s.losses.confidence import (
    Confidence,
    class_counts,
    confidence_loss,
    harden_by_prior,
    prior_offsets,
)
from w2s.losses.xent import Xent


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0), (0.1, 0.375), (0.2, 0.75), (1.0, 0.75)])
def test_weight_rises_over_the_warmup(progress: float, weight: float) -> None:
    output, _ = apply(Confidence(max_weight=0.75), *random_case(classes=2), progress)
    assert output.metrics["confidence_weight"] == pytest.approx(weight)


def test_no_warmup_means_full_weight_at_once() -> None:
    output, _ = apply(Confidence(warmup_fraction=0), *random_case(), progress=0.0)
    assert output.metrics["confidence_weight"] == 0.5


def test_threshold_follows_class_prior() -> None:
    # Weak labels say 1 of 4 rows is of class 1; the student believes all four are.
    weak = two_class([0.1, 0.2, 0.3, 0.4])
    logits = two_class([0.9, 0.7, 0.8, 0.6]).log()
    hard = harden_by_prior(logits, prior_offsets(logits, weak))
    assert hard.tolist() == [[0, 1], [1, 0], [1, 0], [1, 0]]


def test_threshold_lies_between_the_neighbours() -> None:
    weak = two_class([0.5, 0.5, 0.5, 0.5])
    logits = torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, 2.0], [0.0, -4.0]])
    assert prior_offsets(logits, weak).tolist() == pytest.approx([0.0, -1.5])


@pytest.mark.parametrize("prior", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_share_of_class_one_is_the_mean_weak_label(prior: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 2, generator=generator) * 5
    weak = two_class([prior] * 40)
    hard = harden_by_prior(logits, prior_offsets(logits, weak))
    assert hard[:, 1].sum() == pytest.approx(40 * prior)


def test_saturated_students_are_still_told_apart() -> None:
    # softmax gives 1.0 for all of them in float32; the log-odds differ.
    logits = torch.tensor([[0.0, 40.0], [0.0, 41.0], [0.0, 42.0], [0.0, 43.0]])
    hard = harden_by_prior(logits, prior_offsets(logits, two_class([0.5] * 4)))
    assert hard[:, 1].tolist() == [0, 0, 1, 1]


def test_counts_add_up_to_the_rows() -> None:
    # 2.5 and 1.5 rows: one of the halves is rounded up, the first.
    weak = torch.tensor([[0.625, 0.375, 0.0]]).repeat(4, 1)
    assert class_counts(weak).tolist() == [3, 1, 0]
    assert class_counts(torch.tensor([[0.1, 0.2, 0.7]]).repeat(10, 1)).tolist() == [1, 2, 7]


@pytest.mark.parametrize("num_classes", [3, 5])
def test_shares_follow_the_prior_of_many_classes(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(60, num_classes, generator=generator) * 3
    weak = torch.randn(60, num_classes, generator=generator).mul(2).softmax(1)
    hard = harden_by_prior(logits, prior_offsets(logits, weak))
    assert (hard.sum(0) - class_counts(weak)).abs().sum() <= 2


def test_loss_equals_a_hand_worked_number() -> None:
    # p = (1/4, 3/4), weak = (.6, .4), hardened to class 1, weight 1/2: target (.3, .7).
    logits = torch.tensor([[0.0, math.log(3)]])
    loss = confidence_loss(logits, torch.tensor([[0.6, 0.4]]), torch.tensor([[0.0, 1.0]]), 0.5)
    assert float(loss) == pytest.approx(-(0.3 * math.log(0.25) + 0.7 * math.log(0.75)))


def test_mixing_losses_equals_mixing_targets() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(9, 2, generator=generator)
    weak = torch.randn(9, 2, generator=generator).softmax(1)
    hard = harden_by_prior(logits, prior_offsets(logits, weak))
    to_weak = -(weak * logits.log_softmax(1)).sum(1)
    to_itself = -(hard * logits.log_softmax(1)).sum(1)
    mixed = confidence_loss(logits, weak, hard, 0.3)
    torch.testing.assert_close(mixed, 0.7 * to_weak + 0.3 * to_itself)


def test_nothing_is_learned_through_the_hardened_prediction() -> None:
    logits = torch.tensor([[0.2, 0.1], [0.0, 1.0]], requires_grad=True)
    weak = two_class([0.5, 0.5])
    hard = harden_by_prior(logits, prior_offsets(logits, weak))
    confidence_loss(logits, weak, hard, 1.0).sum().backward()
    # The gradient of cross-entropy to a constant: softmax - target.
    expected = logits.detach().softmax(1) - hard
    torch.testing.assert_close(logits.grad, expected)


def test_without_weight_it_is_cross_entropy() -> None:
    logits, weak = random_case()
    output, gradient = apply(Confidence(max_weight=0), logits, weak)
    expected, expected_gradient = apply(Xent(), logits, weak)
    torch.testing.assert_close(output.losses_B, expected.losses_B)
    torch.testing.assert_close(gradient, expected_gradient)


def test_weight_above_one_is_refused() -> None:
    with pytest.raises(ValidationError):
        Confidence(max_weight=1.5)
