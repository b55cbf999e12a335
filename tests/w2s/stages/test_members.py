"""Labels of several members: joined by row, read as members or as their mean, kept or replaced."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.w2s.stages.given import Artifacts
from w2s.stages.members import MemberLabels
from w2s.stages.predictions import (
    Members,
    logprob_columns,
    read_predictions,
    read_targets,
    write_predictions,
)
from w2s.stages.selection import ConfidentSelection
from w2s.weightings.base import Weighting
from w2s.weightings.dynamic import Dynamic
from w2s.weightings.fixed import Fixed
from w2s.weightings.learned import Learned
from w2s.weightings.mean import Mean

ROWS = [
    ("strong_train", "a", (0.9, 0.1)),
    ("strong_train", "b", (0.5, 0.5)),
    ("val", "a", (0.2, 0.8)),
]
OTHER = [
    ("val", "a", (0.6, 0.4)),
    ("strong_train", "b", (0.2, 0.8)),
    ("strong_train", "a", (0.4, 0.6)),
]


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def labels(artifacts: Artifacts, weights: Weighting) -> MemberLabels:
    first, second = artifacts.predictions("first", ROWS), artifacts.predictions("second", OTHER)
    return MemberLabels(members=(first, second), weights=weights)


def test_members_are_joined_by_row_and_read_in_the_order_asked_for(artifacts: Artifacts) -> None:
    folder = artifacts.run(labels(artifacts, Dynamic()))
    targets = read_targets(folder, "strong_train", ["b", "a"], 2)
    assert targets.members is not None
    np.testing.assert_allclose(
        targets.members.probabilities_NMC,
        [[[0.5, 0.5], [0.2, 0.8]], [[0.9, 0.1], [0.4, 0.6]]],
        rtol=1e-6,
    )
    # In proportion to the confidences: .5 and .8, .9 and .6.
    np.testing.assert_allclose(
        targets.members.weights_NM, [[0.5 / 1.3, 0.8 / 1.3], [0.6, 0.4]], rtol=1e-6
    )
    np.testing.assert_allclose(targets.learned_NC, targets.members.probabilities_NMC)
    assert targets.members.weighting == Dynamic()


def test_who_knows_nothing_of_members_reads_their_weighted_mean(artifacts: Artifacts) -> None:
    folder = artifacts.run(labels(artifacts, Fixed(values=(1, 3))))
    frame = read_predictions(folder)
    assert logprob_columns(frame) == ["logprob_0", "logprob_1"]
    found = dict(
        zip(
            zip(frame["split"], frame["row_id"], strict=True),
            np.exp(frame["logprob_0"]),
            strict=True,
        )
    )
    expected = {("strong_train", "a"): 0.525, ("strong_train", "b"): 0.275, ("val", "a"): 0.5}
    assert found == pytest.approx(expected)


def test_sample_weights_of_members_are_averaged_with_their_weights(artifacts: Artifacts) -> None:
    first = artifacts.predictions("first", ROWS, weights=[1, 0, 1])
    second = artifacts.predictions("second", OTHER)
    stage = MemberLabels(members=(first, second), weights=Fixed(values=(1, 3)))
    targets = read_targets(artifacts.run(stage), "strong_train", ["a", "b"], 2)
    assert targets.weights_N.tolist() == [1, 0.75]


def test_members_of_other_rows_are_an_error(artifacts: Artifacts) -> None:
    first, fewer = artifacts.predictions("first", ROWS), artifacts.predictions("fewer", ROWS[:2])
    with pytest.raises(ValueError, match="predicts other rows"):
        artifacts.run(MemberLabels(members=(first, fewer), weights=Mean()))


def test_labels_that_are_selected_are_still_those_of_the_members(artifacts: Artifacts) -> None:
    members = labels(artifacts, Learned(learning_rate=0.5))
    artifacts.run(members)
    selected = ConfidentSelection(labels=members, by="threshold", threshold=0.64)
    targets = read_targets(artifacts.run(selected), "strong_train", ["a", "b"], 2)
    # Means of class 0: (.9 + .4) / 2 and (.5 + .2) / 2.
    assert targets.weights_N.tolist() == [1, 1]
    assert targets.members is not None
    assert targets.members.weighting == Learned(learning_rate=0.5)
    kept = targets.take(np.array([False, True]))
    assert kept.members is not None
    np.testing.assert_allclose(
        kept.members.probabilities_NMC, [[[0.5, 0.5], [0.2, 0.8]]], rtol=1e-6
    )


def test_labels_that_are_replaced_are_nobody_elses(artifacts: Artifacts) -> None:
    members = labels(artifacts, Mean())
    artifacts.run(members)
    place = artifacts.place(artifacts.predictions("new", ROWS))
    artifacts.labels(ConfidentSelection(labels=members, by="top_share")).write(
        place, probabilities_NC=np.array([[0.3, 0.7], [0.6, 0.4]])
    )
    assert read_targets(place, "strong_train", ["a", "b"], 2).members is None


class Halves(Weighting):
    """A weighting of another package."""

    kind: str = "halves"

    def weights(self, logprobs_NMC: np.ndarray) -> np.ndarray:
        return np.full(logprobs_NMC.shape[:2], 0.5)


def test_a_weighting_from_elsewhere_is_found_again(tmp_path: Path) -> None:
    logprobs = np.log(np.full((1, 2, 2), 0.5))
    members = Members(logprobs, np.full((1, 2), 0.5), Halves())
    write_predictions(tmp_path, ["val"], ["a"], logprobs[:, 0], members=members)
    found = read_targets(tmp_path, "val", ["a"], 2).members
    assert found is not None
    assert isinstance(found.weighting, Halves)


def test_a_file_without_members_has_one_label_a_row(artifacts: Artifacts) -> None:
    folder = artifacts.inputs[artifacts.predictions("first", ROWS).key]
    targets = read_targets(folder, "strong_train", ["a", "b"], 2)
    assert targets.members is None
    np.testing.assert_allclose(targets.learned_NC, [[0.9, 0.1], [0.5, 0.5]], rtol=1e-6)
    assert isinstance(read_predictions(folder), pd.DataFrame)
