"""The ramp of a loss's weight."""

from itertools import pairwise

import pytest

from w2s.losses._schedule import ramp


def test_it_rises_linearly_and_stays() -> None:
    shares = [ramp(progress, 0.2) for progress in (0, 0.05, 0.1, 0.2, 0.6, 1)]
    assert shares == pytest.approx([0, 0.25, 0.5, 1, 1, 1])


def test_it_does_not_jump() -> None:
    shares = [ramp(step / 1000, 0.2) for step in range(1001)]
    assert max(b - a for a, b in pairwise(shares)) < 0.0051


def test_no_warmup_means_full_weight_at_once() -> None:
    assert ramp(0.0, 0.0) == 1.0
