"""How base models and finetuned teachers of the store are served."""

import numpy as np
import pytest

from serving.heads import Head
from serving.models import Placement, check_servable
from serving.torch_classifier import Backbone
from sweeps.servable import servable
from sweeps.store import ArtifactStore
from tests.w2s.stages.toy_task import run, save_model, tokens_of, truth
from w2s.errors import UserError
from w2s.losses.xent import Xent
from w2s.models.remote import RemoteModel
from w2s.models.source import PretrainedModel
from w2s.stages.data import read_prompts
from w2s.stages.finetune import Finetune
from w2s.stages.models import model_key
from w2s.stages.predictions import logprob_columns, read_predictions
from w2s.training.config import LoraConfig, TrainConfig

LORA = TrainConfig(learning_rate=1e-2, epochs=2, batch_size=8, mode="lora", lora=LoraConfig(rank=2))
CPU, GPU = Placement(), Placement(num_gpus=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PretrainedModel:
    return save_model(tmp_path_factory.mktemp("model"))


def teacher(model: PretrainedModel, *, save_weights: bool = True, seed: int = 0) -> Finetune:
    return Finetune(
        model=model,
        tokens=tokens_of(model),
        labels=truth("weak_train"),
        train_split="weak_train",
        loss=Xent(),
        train=LORA,
        seed=seed,
        save_weights=save_weights,
    )


def test_adapted_teachers_share_replicas_of_their_base_where_vllm_takes_the_base(
    model: PretrainedModel, store: ArtifactStore
):
    stages = [teacher(model, seed=seed) for seed in (0, 1)]
    for stage in stages:
        run(store, stage)
    found = [servable(stage, store, lambda base: GPU) for stage in stages]
    assert found[0].model.name == found[1].model.name
    assert found[0].model.path == model.path
    assert [each.name for each in found] == [each.adapter.name for each in found if each.adapter]
    assert [each.adapter.digest for each in found if each.adapter] == [s.key for s in stages]
    assert {each.base for each in found} == {model_key(model)}
    check_servable(found[0].model, GPU)


def test_merged_teacher_gives_the_probabilities_that_its_stage_left(
    model: PretrainedModel, store: ArtifactStore
):
    """The toy's attention heads are too small for vLLM on the CPU."""
    stage = teacher(model)
    folder = run(store, stage)
    found = servable(stage, store, lambda base: CPU)
    assert found.adapter is None
    assert (found.model.task, found.model.read_token) == ("classify", "last")
    check_servable(found.model, CPU)
    frame = read_prompts(store.local(stage.prompts))
    prompts = dict(zip(frame["row_id"].tolist(), frame["prompt"].tolist(), strict=True))
    left = read_predictions(folder)
    hidden_ND = Backbone(found.model).hidden([prompts[row] for row in left["row_id"].tolist()])
    probabilities_NC = Head.read(found.model.path).probabilities(hidden_ND)
    logprobs_NC = left[logprob_columns(left)].to_numpy(np.float64)
    np.testing.assert_allclose(probabilities_NC, np.exp(logprobs_NC), atol=1e-5)


def test_teacher_that_kept_no_weights_is_refused_by_name(
    model: PretrainedModel, store: ArtifactStore
):
    stage = teacher(model, save_weights=False)
    with pytest.raises(UserError, match=rf"{stage.key}\) keeps no weights"):
        servable(stage, store, lambda base: CPU)


def test_base_models_are_served_by_what_the_user_named(store: ArtifactStore):
    hub = PretrainedModel(path="lab/model-70m", revision="abc")
    found = servable(hub, store, lambda base: CPU)
    assert (found.model.path, found.model.revision) == ("lab/model-70m", "abc")
    assert found.model.name.startswith("model-70m-")
    far = servable(RemoteModel(name="judge", model="gpt"), store, lambda base: CPU)
    assert (far.model.path, far.model.name[:6]) == ("gpt", "judge-")
