"""Joining members, fitting on held-out rows, choosing a size, out-of-bag scores; and samples."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.w2s.stages.given import PROMPTS, Artifacts, Given
from w2s.combiners.accuracy_weighted import AccuracyWeighted
from w2s.combiners.mean import Mean
from w2s.combiners.vote import Vote
from w2s.errors import UserError
from w2s.stages.base import Stage
from w2s.stages.data import LABELS_FILE, PROMPTS_FILE, GroundTruth
from w2s.stages.ensemble import Ensemble, accuracy_by_size, out_of_bag
from w2s.stages.predictions import read_predictions
from w2s.stages.resample import HeldOutTruth, ResampledTruth, draws


def rows(split: str, ids: str, ones: list[float]) -> list[tuple[str, str, list[float]]]:
    return [(split, row, [1 - p, p]) for row, p in zip(ids, ones, strict=True)]


def combined(given: Artifacts, stage: Ensemble) -> dict[str, float]:
    """Probability of class 1 by row id."""
    frame = read_predictions(given.run(stage)).set_index("row_id")
    return {str(row): float(np.exp(value)) for row, value in frame["logprob_1"].items()}


def weighed_truth(
    given: Artifacts, labels: dict[str, int], weights: list[float], tag: str
) -> Stage:
    """Truth of `weak_train` with weights, as a stage of its own."""
    stage = GroundTruth(task=PROMPTS.task, split="weak_train", data=tag)
    pd.DataFrame(
        {
            "split": "weak_train",
            "row_id": list(labels),
            "label": list(labels.values()),
            "weight": weights,
        }
    ).to_parquet(given.place(stage) / LABELS_FILE)
    return stage


def test_members_may_differ_in_the_training_rows_they_predict(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    more = given.predictions(
        "1", [*rows("weak_train", "ab", [0.1, 0.2]), *rows("test", "x", [0.4])]
    )
    less = given.predictions("2", [*rows("test", "x", [0.8]), *rows("weak_train", "b", [0.4])])
    found = combined(given, Ensemble(members=(more, less)))
    assert found == pytest.approx({"b": 0.3, "x": 0.6}, abs=1e-6)


def test_weights_of_rows_are_the_mean_of_the_members(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    one = given.predictions("1", rows("strong_train", "ab", [0.4, 0.5]), weights=[0.0, 3.0])
    two = given.predictions("2", rows("strong_train", "ba", [0.5, 0.8]))
    frame = read_predictions(given.run(Ensemble(members=(one, two)))).set_index("row_id")
    assert frame["weight"].to_dict() == {"a": 0.5, "b": 2.0}
    plain = given.run(
        Ensemble(members=(two, given.predictions("3", rows("strong_train", "ab", [0.5] * 2))))
    )
    assert "weight" not in read_predictions(plain).columns


def test_a_combiner_is_fitted_on_the_rows_that_no_member_learnt(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    truth = weighed_truth(given, {"a": 1, "b": 1, "c": 0}, [1.0, 0.0, 0.0], "held out")
    # Both are wrong about a, which was learnt; about b and c only the second is wrong.
    right = given.predictions(
        "1", [*rows("weak_train", "abc", [0.1, 0.9, 0.1]), *rows("test", "x", [0.7])]
    )
    wrong = given.predictions(
        "2", [*rows("weak_train", "cab", [0.9, 0.1, 0.1]), *rows("test", "x", [0.1])]
    )
    stage = Ensemble(members=(right, wrong), combine=AccuracyWeighted(), held_out=truth)
    assert combined(given, stage)["x"] == pytest.approx(0.7, abs=1e-6)


def test_a_fitted_combiner_says_which_rows_it_lacks(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    truth = weighed_truth(given, {"a": 1, "b": 1}, [1.0, 0.0], "held out")
    blind = [given.predictions(tag, rows("test", "x", [0.7])) for tag in "12"]
    stage = Ensemble(members=tuple(blind), combine=AccuracyWeighted(), held_out=truth)
    with pytest.raises(ValueError, match=r"do not predict 1 of 1 rows of weak_train .* first: b"):
        given.run(stage)
    with pytest.raises(ValueError, match="accuracy_weighted is fitted on held-out rows"):
        Ensemble(members=tuple(blind), combine=AccuracyWeighted())


def test_the_size_is_the_smallest_of_those_best_on_val(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    val = given.truth("val", {"p": 1, "q": 1})
    members = [
        given.predictions(tag, [*rows("val", "pq", ones), *rows("test", "x", [x])])
        for tag, ones, x in (
            ("1", [0.9, 0.4], 0.2),
            ("2", [0.6, 0.7], 0.4),
            ("3", [0.6, 0.7], 0.9),
        )
    ]
    stage = Ensemble(members=tuple(members), size_by=val)
    folder = given.run(stage)
    found = read_predictions(folder).set_index("row_id")
    assert np.exp(found.loc["x", "logprob_1"]) == pytest.approx(0.3, abs=1e-6)
    notes = json.loads((folder / "ensemble.json").read_text())
    assert notes == {"num_members": 3, "size": 2, "val_accuracy_by_size": [0.5, 1.0, 1.0]}


def test_accuracy_by_size_of_votes() -> None:
    members = np.array([[[0.9, 0.1]], [[0.2, 0.8]], [[0.3, 0.7]]])
    assert accuracy_by_size(Vote(), members, np.array([1])) == [0.0, 0.0, 1.0]
    assert accuracy_by_size(Mean(), members, np.array([1])) == [0.0, 0.0, 1.0]


def test_out_of_bag_scores_by_hand() -> None:
    members = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [[0.3, 0.7], [0.1, 0.9], [0.2, 0.8]]])
    labels = np.array([0, 1, 1])
    out = np.array([[True, False, True], [True, False, False]])
    # First: right about row 0, wrong about 2. Second: wrong about 0. Together 0.6 on row 0, and
    # the first alone on row 2.
    assert out_of_bag(members, labels, out) == {
        "members": [0.5, 0.0],
        "ensemble": 0.5,
        "num_rows": 2,
    }
    none = out_of_bag(members, labels, np.zeros((2, 3), dtype=bool))
    assert none == {"members": [None, None], "ensemble": None, "num_rows": 0}


def test_out_of_bag_rows_are_those_of_weight_0_in_each_sample(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    labels = {"a": 1, "b": 0}
    samples = (
        weighed_truth(given, labels, [0.0, 2.0], "1"),
        weighed_truth(given, dict(reversed(labels.items())), [0.0, 2.0], "2"),
    )
    members = [
        given.predictions(tag, [*rows("weak_train", "ba", ones), *rows("test", "x", [0.5])])
        for tag, ones in (("1", [0.9, 0.9]), ("2", [0.8, 0.1]))
    ]
    folder = given.run(Ensemble(members=tuple(members), samples=samples))
    notes = json.loads((folder / "ensemble.json").read_text())["out_of_bag"]
    assert notes == {"members": [1.0, 0.0], "ensemble": 0.5, "num_rows": 2}


def grouped(given: Artifacts, groups: str) -> GroundTruth:
    """Truth of `weak_train` with a row a letter, which is its group."""
    ids = [f"r{index}" for index in range(len(groups))]
    frame = pd.DataFrame(
        {"split": "weak_train", "row_id": ids[::-1], "prompt": "", "group": list(groups)[::-1]}
    )
    frame.to_parquet(given.place(PROMPTS) / PROMPTS_FILE)
    return given.truth("weak_train", {row: index % 2 for index, row in enumerate(ids)})


def sampled(given: Artifacts, stage: Stage) -> list[float]:
    return pd.read_parquet(given.run(stage) / LABELS_FILE)["weight"].tolist()


def test_groups_are_drawn_whole_and_as_often_as_there_are(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    groups = "aabbbcdddd"
    truth = grouped(given, groups)
    some = False
    for seed in range(5):
        weights = sampled(given, ResampledTruth(labels=truth, prompts=PROMPTS, seed=seed))
        by_group = {
            group: {w for g, w in zip(groups, weights, strict=True) if g == group}
            for group in "abcd"
        }
        assert all(len(found) == 1 for found in by_group.values())
        assert sum(next(iter(found)) for found in by_group.values()) == 4
        some |= any(found & {2.0, 3.0, 4.0} for found in by_group.values())
    assert some


def test_a_share_without_replacement_and_a_larger_one_that_holds_it() -> None:
    groups = np.array([f"g{index}" for index in range(40)])
    small, large = (draws(groups, share, replace=False, seed=1) for share in (0.4, 0.75))
    assert (len(small), len(large)) == (16, 30)
    assert set(small) < set(large)
    assert set(large.values()) == {1}
    assert draws(groups, 0.4, replace=False, seed=2) != small


def test_a_bootstrap_leaves_out_a_third_of_many_groups() -> None:
    groups = np.array([f"g{index}" for index in range(2000)])
    drawn = draws(groups, 1.0, replace=True, seed=0)
    assert sum(drawn.values()) == 2000
    assert 1 - len(drawn) / 2000 == pytest.approx(np.exp(-1), abs=0.03)


def test_what_is_held_out_is_never_drawn(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    groups = "aabbccddee"
    truth = grouped(given, groups)
    held_out = HeldOutTruth(labels=truth, prompts=PROMPTS, share=0.4, seed=0)
    kept = np.array(sampled(given, held_out)) > 0
    assert kept.sum() == 6
    for seed in range(4):
        weights = np.array(
            sampled(given, ResampledTruth(labels=held_out, prompts=PROMPTS, seed=seed))
        )
        assert not weights[~kept].any()
        assert weights.sum() == 2 * 3


def test_one_group_cannot_be_held_out(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    truth = grouped(given, "aaa")
    with pytest.raises(UserError, match="raise `held_out` or give more rows"):
        given.run(HeldOutTruth(labels=truth, prompts=PROMPTS, share=0.2, seed=0))


def test_a_member_that_predicts_other_rows_is_named(tmp_path: Path) -> None:
    given = Artifacts(tmp_path)
    members: list[Given] = [
        given.predictions(tag, rows("test", ids, [0.5] * len(ids)))
        for tag, ids in (("1", "ab"), ("2", "abc"))
    ]
    with pytest.raises(
        ValueError, match=f"member given \\({members[1].key}\\) predicts other rows"
    ):
        given.run(Ensemble(members=tuple(members)))
