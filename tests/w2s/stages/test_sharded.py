"""Stages that train in a gang of two that share the model out leave what one process leaves."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_stage
from tests.w2s.stages.toy_task import run, save_model, tokens_of, truth
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.source import PretrainedModel
from w2s.stages.base import Stage
from w2s.stages.checkpoints import read_training
from w2s.stages.finetune import Finetune
from w2s.stages.generative import GenerativeFinetune
from w2s.stages.predictions import read_predictions
from w2s.training.config import GenerativeConfig, TrainConfig
from w2s.training.parallel import Replicas

NAMES = ["full", "lora", "narrow", "second", "language model"]


def stages(model: PretrainedModel) -> dict[str, Stage]:
    """By what is trained; `second` starts at the weights of `full`."""
    recipe = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 8}
    shared = {
        "model": model,
        "tokens": tokens_of(model),
        "labels": truth("strong_train"),
        "train_split": "strong_train",
        "loss": Confidence(),
        "seed": 0,
        "save_weights": True,
    }
    best = TrainConfig.model_validate(
        {**recipe, "epochs": 6, "num_checkpoints": 9, "checkpoint": "best_val"}
    )
    full = Finetune.model_validate({**shared, "train": best, "val_labels": truth("val")})
    lora = {**recipe, "mode": "lora"}
    narrow = {**recipe, "head_share": 0.5, "head_layer": 1}
    again = {"start": full, "loss": Xent(), "train": recipe, "save_weights": False}
    texts = GenerativeConfig(learning_rate=3e-3, epochs=2, batch_size=8)
    return {
        "full": full,
        "lora": Finetune.model_validate({**shared, "train": lora}),
        "narrow": Finetune.model_validate({**shared, "train": narrow}),
        "second": Finetune.model_validate({**shared, **again}),
        "language model": GenerativeFinetune.model_validate(
            {"model": model, "tokens": tokens_of(model), "train": texts, "seed": 0}
        ),
    }


def worker(rank: int, folder: str, model: PretrainedModel) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    conditions = Conditions(replicas=Replicas(rank, 2, shards=True))
    for stage in stages(model).values():
        outcome = run_stage(stage, ArtifactStore(f"{folder}/pair"), conditions)
        assert not outcome.cause, outcome.traceback
        dist.barrier()  # the next stage may read what the first replica wrote
    dist.destroy_process_group()


class Folders(NamedTuple):
    """Artifacts of one stage."""

    alone: Path
    pair: Path


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folders]:
    """What each stage left."""
    folder = tmp_path_factory.mktemp("sharded")
    model = save_model(folder / "model")
    alone, pair = ArtifactStore(f"{folder}/alone"), ArtifactStore(f"{folder}/pair")
    named = stages(model)
    for stage in named.values():
        run(alone, stage)
        for needed in stage.inputs:
            if needed.lane == "light":
                run(pair, needed)
    spawn(worker, args=(str(folder), model), nprocs=2)
    return {name: Folders(alone.local(stage), pair.local(stage)) for name, stage in named.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_files_hold_the_same_weights(artifacts: dict[str, Folders], name: str) -> None:
    alone, pair = artifacts[name]
    files = sorted(path.relative_to(alone) for path in alone.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(pair) for path in pair.rglob("*") if path.is_file())
    for file in files:
        if file.suffix == ".safetensors":
            torch.testing.assert_close(
                load_file(pair / file), load_file(alone / file), atol=2e-5, rtol=1e-3
            )
        if file.name == "config.json":
            assert (pair / file).read_text() == (alone / file).read_text()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "language model"])
def test_predictions_and_counts_are_the_same(artifacts: dict[str, Folders], name: str) -> None:
    alone, pair = artifacts[name]
    pd.testing.assert_frame_equal(
        read_predictions(pair), read_predictions(alone), atol=2e-5, rtol=1e-3
    )
    assert read_training(pair) == read_training(alone)


def test_the_best_checkpoint_was_not_the_last(artifacts: dict[str, Folders]) -> None:
    """Else the weights that are put back would have been there already."""
    training = read_training(artifacts["full"].alone)
    assert training["selected_step"] < training["last_step"]
