"""The recursion: what an aligner learns, by hand; the generation that is kept, without truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.w2s.stages.given import Artifacts
from w2s.stages.predictions import read_targets
from w2s.stages.recursion import (
    AlignerLabels,
    Anchor,
    SelectedGeneration,
    last_before_stall,
    read_generations,
)

STUDENT = [
    ("strong_train", "sure", (0.9, 0.1)),
    ("strong_train", "edge", (0.24, 0.76)),
    ("strong_train", "unsure", (0.3, 0.7)),
    ("strong_train", "contradicted", (0.1, 0.9)),
    ("val", "v0", (0.2, 0.8)),
    ("val", "v1", (0.8, 0.2)),
]
ALIGNER = [
    ("val", "v1", (0.4, 0.6)),
    ("val", "v0", (0.4, 0.6)),
    ("strong_train", "contradicted", (0.8, 0.2)),
    ("strong_train", "unsure", (0.3, 0.7)),
    ("strong_train", "edge", (0.4, 0.6)),
    ("strong_train", "sure", (0.6, 0.4)),
]
TRUTH = {f"w{number}": number % 2 for number in range(10)}


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def anchor(artifacts: Artifacts, num_rows: int) -> Anchor:
    """The anchor, run."""
    stage = Anchor(truth=artifacts.truth("weak_train", TRUTH), num_rows=num_rows, seed=0)
    artifacts.run(stage)
    return stage


def update(artifacts: Artifacts, *, num_anchor: int = 4, **fields: Any) -> AlignerLabels:
    return AlignerLabels(
        student=artifacts.predictions("student", STUDENT),
        other=artifacts.predictions("aligner", ALIGNER),
        anchor=anchor(artifacts, num_anchor),
        **{"by": "threshold", **fields},
    )


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"threshold": 0.75}, {"edge", "sure"}),
        ({"threshold": 0.8}, {"sure"}),
        # Of class 0 there is one consistent row, of class 1 two: half of them is one each.
        ({"by": "top_share", "share": 0.5}, {"edge", "sure"}),
        ({"by": "top_share", "share": 1.0}, {"edge", "sure", "unsure"}),
    ],
)
def test_an_aligner_learns_what_is_sure_and_not_contradicted(
    artifacts: Artifacts, fields: dict[str, Any], kept: set[str]
) -> None:
    folder = artifacts.run(update(artifacts, **fields))
    row_ids = ["contradicted", "unsure", "edge", "sure"]
    targets = read_targets(folder, "strong_train", row_ids, 2)
    assert {row for row, weight in zip(row_ids, targets.weights_N, strict=True) if weight} == kept
    assert set(targets.weights_N.tolist()) == {0, 1}
    np.testing.assert_allclose(targets.probabilities_NC[-1], [0.9, 0.1], rtol=1e-6)
    assert json.loads((folder / "kept.json").read_text()) == len(kept) / 4
    assert read_targets(folder, "val", ["v0"], 2).weights_N.tolist() == [1]


def test_the_anchor_is_the_truth_of_a_few_rows_and_grows(artifacts: Artifacts) -> None:
    rows = list(TRUTH)
    chosen = []
    for number in (1, 3, 5):
        here = Artifacts(artifacts.folder / str(number))
        labels = update(here, num_anchor=number)
        targets = read_targets(here.run(labels), "weak_train", rows, 2)
        assert targets.weights_N.sum() == number
        np.testing.assert_allclose(
            targets.probabilities_NC, np.eye(2)[list(TRUTH.values())], atol=1e-6
        )
        alone = read_targets(here.inputs[labels.anchor.key], "weak_train", rows, 2)
        assert alone.weights_N.tolist() == targets.weights_N.tolist()
        chosen.append({row for row, weight in zip(rows, targets.weights_N, strict=True) if weight})
    assert chosen[0] < chosen[1] < chosen[2]


def test_rows_of_both_splits_are_read_in_the_order_asked_for(artifacts: Artifacts) -> None:
    folder = artifacts.run(update(artifacts, num_anchor=10))
    targets = read_targets(
        folder, ["strong_train", "weak_train", "strong_train"], ["sure", "w1", "edge"], 2
    )
    np.testing.assert_allclose(
        targets.probabilities_NC, [[0.9, 0.1], [0, 1], [0.24, 0.76]], atol=1e-6
    )
    with pytest.raises(ValueError, match="1 of 2 rows of strong_train and weak_train have no"):
        read_targets(folder, ["strong_train", "weak_train"], ["sure", "sure"], 2)


def test_an_aligner_may_learn_its_anchor_alone(artifacts: Artifacts) -> None:
    folder = artifacts.run(update(artifacts, num_anchor=1, threshold=0.95))
    assert json.loads((folder / "kept.json").read_text()) == 0


def test_truth_of_other_splits_is_no_anchor(artifacts: Artifacts) -> None:
    with pytest.raises(ValueError, match="the anchor is of weak_train"):
        Anchor(truth=artifacts.truth("strong_train", {"sure": 0}), num_rows=1, seed=0)


@pytest.mark.parametrize(
    ("agreements", "selected"),
    [
        ([0.8, 0.9, 0.95], 2),
        ([0.8, 0.805, 0.95], 0),
        ([0.8, 0.81, 0.81], 1),
        ([0.9, 0.8, 1.0], 0),
        ([0.8, 0.9, 0.85], 1),
    ],
)
def test_generations_end_where_agreement_stalls(agreements: list[float], selected: int) -> None:
    assert last_before_stall(agreements, min_gain=0.01) == selected


def test_without_a_least_gain_agreement_still_has_to_rise() -> None:
    assert last_before_stall([0.8, 0.8, 0.9], min_gain=0) == 0
    assert last_before_stall([0.8, 0.81, 0.82], min_gain=0) == 2


def val(classes: list[int]) -> list[tuple[str, str, tuple[float, float]]]:
    return [
        ("val", f"v{number}", ((0.9, 0.1), (0.2, 0.8))[label])
        for number, label in enumerate(classes)
    ]


def test_the_selected_student_is_the_artifact_and_every_generation_is_noted(
    artifacts: Artifacts,
) -> None:
    # Agreement on val: 2 of 4, 3 of 4, 3 of 4.
    aligners = [
        artifacts.predictions(f"e{number}", val(classes)[::-1])
        for number, classes in enumerate(([0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]))
    ]
    students = [
        artifacts.predictions(f"s{number}", val(classes))
        for number, classes in enumerate(([0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]))
    ]
    (artifacts.inputs[students[1].key] / "training.json").write_text('{"num_steps": 7}')
    first = update(artifacts)
    fields = {name: getattr(first, name) for name in type(first).model_fields}
    second = AlignerLabels(**{**fields, "threshold": 0.8})
    artifacts.run(first)
    artifacts.run(second)
    stage = SelectedGeneration(
        aligners=tuple(aligners), students=tuple(students), updates=(first, second), min_gain=0.01
    )
    folder = artifacts.run(stage)
    assert [generation.model_dump() for generation in read_generations(folder)] == [
        {"number": 0, "agreement": 0.5, "kept_share": 0.5, "selected": False},
        {"number": 1, "agreement": 0.75, "kept_share": 0.25, "selected": True},
        {"number": 2, "agreement": 0.75, "kept_share": None, "selected": False},
    ]
    found = read_targets(folder, "val", ["v0", "v3"], 2).probabilities_NC
    np.testing.assert_allclose(found, [[0.9, 0.1], [0.9, 0.1]], rtol=1e-6)
    assert json.loads((folder / "training.json").read_text()) == {"num_steps": 7}
    assert read_generations(artifacts.inputs[students[0].key]) == ()
