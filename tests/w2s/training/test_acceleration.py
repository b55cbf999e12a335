"""Compiled blocks train as plain ones do, alone and shared out over two processes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaModel

from w2s.losses.confidence import Confidence
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.acceleration import accelerate
from w2s.training.batching import TokenRows
from w2s.training.config import TrainConfig
from w2s.training.loop import finetune, predict
from w2s.training.parallel import Replicas
from w2s.training.sharding import full_state
from w2s.types import Acceleration

pytestmark = pytest.mark.slow

COMPILED = Acceleration(compile=True)
COMPILED_AGAIN = Acceleration(compile=True, activation_checkpointing=True)


def train(acceleration: Acceleration, replicas: Replicas) -> dict[str, torch.Tensor]:
    """Texts of many lengths, so that no shape is always the same."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=33,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    rng = np.random.default_rng(0)
    rows = TokenRows.from_lists(
        [rng.integers(1, 33, size=size).tolist() for size in rng.integers(3, 30, size=64)]
    )
    p1 = rng.random(64)
    classifier = Classifier.fresh(prepare_backbone(LlamaModel(shape)), 2, seed=0)
    accelerate(classifier.backbone, acceleration)
    curve = finetune(
        classifier,
        rows,
        np.stack([1 - p1, p1], 1),
        Confidence(),
        TrainConfig(learning_rate=3e-3, epochs=2, batch_size=8),
        seed=0,
        replicas=replicas,
        micro_batch_tokens=100,
    )
    return {
        "losses": torch.tensor([point["loss"] for point in curve]),
        "predictions": torch.from_numpy(predict(classifier, rows, replicas=replicas)),
        "weights": torch.cat([tensor.flatten() for tensor in full_state(classifier).values()]),
        "compiled": torch.tensor(torch._dynamo.utils.counters["frames"]["ok"]),
    }


def replica(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = train(COMPILED_AGAIN, replace(Replicas.current(), shards=True))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def assert_alike(found: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> None:
    assert found.pop("compiled") > 0
    for name, value in found.items():
        torch.testing.assert_close(value, plain[name], atol=1e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    found = train(Acceleration(), Replicas())
    assert found["compiled"] == 0
    return found


def test_compiled_blocks_train_as_plain_ones(plain: dict[str, torch.Tensor]) -> None:
    assert_alike(train(COMPILED, Replicas()), plain)


def test_compiled_blocks_can_be_shared_out_and_keep_their_inputs_alone(
    plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    spawn(replica, args=(str(tmp_path),), nprocs=2)
    assert_alike(torch.load(tmp_path / "0.pt"), plain)
