"""The confidence window: which rows it learns from."""

import math

import pytest
import torch
from pydantic import ValidationError

from tests.w2s.losses.toy import apply, random_case, two_class
from w2s.losses.confidence_window import ConfidenceWindow, median_confidence
from w2s.losses.xent import Xent


def test_only_rows_below_half_plus_radius_are_learned() -> None:
    # The student's larger probabilities: .6, .64, .66, .9; the window ends at .65.
    logits = two_class([0.6, 0.36, 0.66, 0.1]).log()
    output, gradient = apply(ConfidenceWindow(), logits, two_class([0.0, 0.5, 0.0, 1.0]))
    expected = [-math.log(0.4), -(math.log(0.36) + math.log(0.64)) / 2, 0, 0]
    assert output.losses_B.tolist() == pytest.approx(expected)
    assert gradient[2:].abs().max() == 0
    assert float(output.metrics["window_share"]) == 0.5


def test_median_of_an_even_number_of_labels_lies_between_them() -> None:
    assert float(median_confidence(two_class([0.9, 0.3, 0.6, 0.2]))) == pytest.approx(0.75)


def test_weak_median_sets_the_window_by_the_labels() -> None:
    # Labels are sure by .9, .7, .6, .8: the window ends at .75.
    logits = two_class([0.74, 0.76, 0.26, 0.24]).log()
    weak = two_class([0.9, 0.3, 0.6, 0.2])
    output, _ = apply(ConfidenceWindow(radius="weak_median"), logits, weak)
    assert (output.losses_B > 0).tolist() == [True, False, True, False]


def test_rows_in_the_window_have_cross_entropy() -> None:
    logits, weak = random_case()
    output, gradient = apply(ConfidenceWindow(radius=0.3), logits, weak)
    inside = logits.softmax(1).amax(1) < 0.8
    assert 0 < inside.sum() < len(inside)
    whole, whole_gradient = apply(Xent(), logits, weak)
    torch.testing.assert_close(output.losses_B, torch.where(inside, whole.losses_B, 0.0))
    torch.testing.assert_close(gradient, torch.where(inside.unsqueeze(1), whole_gradient, 0.0))


def test_an_empty_window_teaches_nothing() -> None:
    output, gradient = apply(
        ConfidenceWindow(), torch.tensor([[9.0, -9.0]]), torch.tensor([[0.0, 1.0]])
    )
    assert output.losses_B.tolist() == [0]
    assert gradient.tolist() == [[0, 0]]


def test_only_the_median_needs_the_whole_update() -> None:
    assert ConfidenceWindow(radius="weak_median").needs_whole_batch
    assert not ConfidenceWindow(radius=0.15).needs_whole_batch


@pytest.mark.parametrize("radius", [0, 0.6, "median"])
def test_other_radii_are_refused(radius: object) -> None:
    with pytest.raises(ValidationError):
        ConfidenceWindow.model_validate({"radius": radius})
