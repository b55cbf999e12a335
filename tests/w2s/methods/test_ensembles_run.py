"""Ensembles run for real on a toy task, in every mode of training."""

import numpy as np
import pytest

from sweeps.store import ArtifactStore
from tests.w2s.methods.test_end_to_end import FAST, experiment, run
from tests.w2s.stages.toy_task import save_model
from w2s.methods.base import Method
from w2s.models.source import PretrainedModel
from w2s.spec import parse
from w2s.stages.base import closure
from w2s.stages.boosting import Residual, Reweighted
from w2s.stages.data import read_truth
from w2s.stages.ensemble import read_ensemble
from w2s.stages.finetune import Finetune
from w2s.stages.predictions import logprob_columns, read_predictions
from w2s.training.config import TrainConfig

RECIPES = {
    "full": FAST,
    "lora": FAST.model_copy(update={"mode": "lora"}),
    "probe": TrainConfig.model_validate({"mode": "probe", "probe": {"epochs": 5}}),
}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PretrainedModel]:
    return {
        name: save_model(tmp_path_factory.mktemp(name), seed=seed)
        for seed, name in enumerate(("xs", "l"))
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(str(tmp_path_factory.mktemp("store")))


METHODS: list[dict[str, object]] = [
    {"kind": "bagging", "num_members": 3},
    {"kind": "bagging", "num_members": 2, "over": "features", "combine": "geometric_mean"},
    {"kind": "bagging", "over": "layers", "layers": [1, 2], "combine": "vote"},
    {"kind": "bagging", "num_members": 2, "share": 0.5, "replace": False, "combine": "stacking"},
    {"kind": "gradient_boosting", "num_rounds": 2},
    {"kind": "adaboost", "num_rounds": 2, "of": {"kind": "finetune_ensemble", "num_members": 2}},
    {"kind": "ensemble", "of": ["naive", {"kind": "adaboost", "num_rounds": 2}],
     "combine": "accuracy_weighted", "select_size": True},
]  # fmt: skip


@pytest.mark.parametrize(("mode", "options"), [("full", False), ("lora", True), ("probe", False)])
@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: f"{fields['kind']}-{len(fields)}")
def test_supervision_covers_the_rows_with_distributions(
    shared: ArtifactStore,
    ladder: dict[str, PretrainedModel],
    fields: dict[str, object],
    options: bool,
    mode: str,
) -> None:
    here = experiment(ladder, parse(Method, fields), options=options)
    here = here.model_copy(update={"supervisor_train": RECIPES[mode]})
    supervision = here.method.supervision(here.setup(0))
    frame = read_predictions(run(shared, supervision))
    assert set(frame["split"]) >= {"strong_train", "val", "test"}
    probabilities = np.exp(frame[logprob_columns(frame)].to_numpy())
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_a_bagged_member_learns_its_sample_and_is_scored_on_the_rest(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel]
) -> None:
    here = experiment(ladder, parse(Method, {"kind": "bagging", "num_members": 3}))
    supervision = here.method.supervision(here.setup(0))
    notes = read_ensemble(run(shared, supervision))["out_of_bag"]
    assert isinstance(supervision.inputs[0], Finetune)
    left_out = [
        set(truth.loc[truth["weight"] == 0, "row_id"])
        for truth in (
            read_truth(shared.local(member.labels))
            for member in supervision.inputs
            if isinstance(member, Finetune)
        )
    ]
    assert len(notes["members"]) == len(left_out) == 3
    assert notes["num_rows"] == len(set.union(*left_out))
    assert 0 < len(left_out[0]) < 24
    assert left_out[0] != left_out[1]


def test_rounds_learn_other_weights_and_offsets_in_turn(
    shared: ArtifactStore, ladder: dict[str, PretrainedModel]
) -> None:
    here = experiment(ladder, parse(Method, {"kind": "adaboost", "num_rounds": 2}))
    boosted = here.method.supervision(here.setup(0))
    votes = read_ensemble(run(shared, boosted))["votes"]
    assert len(votes) == 2
    weighed = [stage for stage in closure([boosted]).values() if isinstance(stage, Reweighted)]
    weights = read_truth(shared.local(weighed[0]))["weight"].to_numpy()
    assert np.sum(weights) == pytest.approx(24, rel=1e-5)

    here = experiment(ladder, parse(Method, {"kind": "gradient_boosting", "num_rounds": 2}))
    summed = here.method.supervision(here.setup(0))
    run(shared, summed)
    (residual,) = (stage for stage in closure([summed]).values() if isinstance(stage, Residual))
    offsets = read_truth(shared.local(residual)).set_index("row_id")
    first = read_predictions(shared.local(residual.members[0]))
    first = first.loc[first["split"] == "weak_train"].set_index("row_id").loc[offsets.index]
    np.testing.assert_allclose(
        offsets["offset_1"] - offsets["offset_0"],
        first["logprob_1"] - first["logprob_0"],
        atol=1e-5,
    )
