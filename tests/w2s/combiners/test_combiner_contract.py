"""What every combiner promises, whatever its rule."""

import numpy as np
import pytest
from numpy.typing import NDArray

from w2s.combiners.base import Combiner, HeldOut
from w2s.spec import available, parse

KINDS = available(Combiner)
FIELDS: dict[str, dict[str, object]] = {"weighted": {"weights": [1.0, 2.0, 1.0]}}
NAMES_MEMBERS = {"weighted"}
"""Kinds with a field for each member, for which the order of members matters."""
MEMBERS, ROWS, HELD_OUT, CLASSES = 3, 12, 30, 3


def combiner(kind: str) -> Combiner:
    return parse(Combiner, {"kind": kind, **FIELDS.get(kind, {})})


def drawn(seed: int, rows: int = ROWS) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(CLASSES), (MEMBERS, rows))


def held_out(seed: int = 9) -> HeldOut:
    labels = np.random.default_rng(seed).integers(0, CLASSES, HELD_OUT)
    return HeldOut(drawn(seed, HELD_OUT), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_distributions_of_the_same_shape(kind: str) -> None:
    combined = combiner(kind).combine(drawn(0), held_out())
    assert combined.shape == (ROWS, CLASSES)
    assert (combined >= 0).all()
    np.testing.assert_allclose(combined.sum(1), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_combined_for_itself(kind: str) -> None:
    whole = combiner(kind).combine(drawn(0), held_out())
    for row in (0, 7):
        alone = combiner(kind).combine(drawn(0)[:, [row]], held_out())
        np.testing.assert_allclose(alone[0], whole[row])


@pytest.mark.parametrize("kind", KINDS)
def test_other_names_of_the_classes_give_the_same_under_these_names(kind: str) -> None:
    order = np.array([2, 0, 1])
    given = held_out()
    renamed = HeldOut(given.probabilities_MHC[:, :, order], np.argsort(order)[given.labels_H])
    np.testing.assert_allclose(
        combiner(kind).combine(drawn(0)[:, :, order], renamed),
        combiner(kind).combine(drawn(0), given)[:, order],
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NAMES_MEMBERS])
def test_the_order_of_members_does_not_matter(kind: str) -> None:
    order = [2, 0, 1]
    given = held_out()
    np.testing.assert_allclose(
        combiner(kind).combine(
            drawn(0)[order], HeldOut(given.probabilities_MHC[order], given.labels_H)
        ),
        combiner(kind).combine(drawn(0), given),
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_members_are_sure_of_and_have_been_right_about_stays(kind: str) -> None:
    sure = np.array([[[0.8, 0.1, 0.1], [0.1, 0.2, 0.7]]] * MEMBERS)
    right = np.eye(CLASSES)[np.arange(HELD_OUT) % CLASSES] * 0.7 + 0.1
    given = HeldOut(np.stack([right] * MEMBERS), np.arange(HELD_OUT) % CLASSES)
    assert combiner(kind).combine(sure, given).argmax(1).tolist() == [0, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_probability_of_0_is_no_error(kind: str) -> None:
    certain = np.array([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    combined = combiner(kind).combine(certain, held_out())
    assert np.isfinite(combined).all()
    assert combined[0, 0] + combined[0, 1] > 0.99 or kind == "stacking"
