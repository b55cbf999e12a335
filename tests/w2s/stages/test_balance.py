"""Labels balanced by the class that they predict."""

from pathlib import Path

import numpy as np
import pytest

from tests.w2s.stages.given import Artifacts, Given
from w2s.errors import UserError
from w2s.stages.balance import BalancedLabels, balanced

YES = [0.9, 0.8, 0.7, 0.6, 0.2, 0.1]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def labels(artifacts: Artifacts, weights: list[float] | None = None) -> Given:
    rows = [("strong_train", f"r{i}", (1 - yes, yes)) for i, yes in enumerate(YES)]
    test = [("test", "t0", (0.1, 0.9))]
    return artifacts.predictions("weak", [*rows, *test], weights and [*weights, 1.0])


def test_as_many_rows_of_each_predicted_class_as_the_smallest_has(artifacts: Artifacts) -> None:
    found = artifacts.labels(BalancedLabels(labels=labels(artifacts), seed=0))
    kept = found.train_weights_N > 0
    assert kept[:4].sum() == 2
    assert kept[4:].all()
    np.testing.assert_allclose(found.probabilities_NC[:, 1], YES, rtol=1e-5)
    assert found.weights_N[-1] == 1


def test_rows_that_were_left_out_before_are_not_counted(artifacts: Artifacts) -> None:
    given = labels(artifacts, weights=[0.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    found = artifacts.labels(BalancedLabels(labels=given, seed=0))
    kept = found.train_weights_N > 0
    assert (kept[1:4].sum(), kept[4]) == (1, True)
    assert not kept[[0, 5]].any()


def test_too_few_rows_of_a_class_are_refused(artifacts: Artifacts) -> None:
    given = labels(artifacts)
    with pytest.raises(UserError, match=r"3 rows of each predicted class .* predict 2, 4 of"):
        artifacts.labels(BalancedLabels(labels=given, num_rows=3, seed=0))
    one_class = labels(artifacts, weights=[1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    with pytest.raises(UserError, match=r"predict 0, 4 of class"):
        artifacts.labels(BalancedLabels(labels=one_class, seed=0))


def test_fewer_rows_at_a_seed_are_among_more() -> None:
    classes = np.arange(100) % 2
    few, many = (balanced(classes, np.ones(100, bool), number, 0) for number in (10, 30))
    assert (few.sum(), many.sum()) == (20, 60)
    assert not (few & ~many).any()
    assert (few != balanced(classes, np.ones(100, bool), 10, 1)).any()
