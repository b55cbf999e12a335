"""1 x 32, 4 x 8 and 2 workers x 16 train alike, with every loss."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from tests.w2s.losses.toy import LOSSES, for_every_loss, name
from w2s.losses.base import Loss
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.batching import TokenRows
from w2s.training.config import TrainConfig
from w2s.training.loop import finetune
from w2s.training.parallel import Replicas

Found = dict[str, torch.Tensor]
STATISTICS = [loss for loss in LOSSES if loss.needs_whole_batch]


@cache
def backbone() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    return prepare_backbone(LlamaModel(config))


def train(loss: Loss, replicas: Replicas, micro_batch_size: int | None) -> Found:
    """Three updates of 32 rows, with sample weights."""
    rng = np.random.default_rng(0)
    rows = TokenRows.from_lists([rng.integers(1, 32, size=6).tolist() for _ in range(96)])
    classifier = Classifier.fresh(backbone(), 2, seed=0)
    classifier.head.weight.data *= 20  # so that the student has opinions
    curve = finetune(
        classifier,
        rows,
        rng.dirichlet(np.array([1.0, 2.0]), size=96),
        loss,
        TrainConfig(learning_rate=3e-3, epochs=1, batch_size=32),
        seed=0,
        weights_N=rng.uniform(0.5, 1.5, size=96),
        replicas=replicas,
        micro_batch_size=micro_batch_size,
    )
    points = [[value for _, value in sorted(point.items())] for point in curve]
    trained = torch.cat([value.detach().flatten() for value in classifier.parameters()])
    return {"trained": trained, "curve": torch.tensor(points)}


@dataclass
class Desk:
    """Where two threads lay down what they add up."""

    barrier: Barrier = field(default_factory=lambda: Barrier(2, timeout=60))
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def sum(self, rank: int, tensor: torch.Tensor) -> torch.Tensor:
        self.values[rank] = tensor.clone()
        self.barrier.wait()
        total = self.values[0] + self.values[1]
        self.barrier.wait()
        return total


@dataclass(frozen=True)
class ThreadReplicas(Replicas):
    """Replicas that are threads: as quick as one process."""

    desk: Desk = field(default_factory=Desk)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.copy_(self.desk.sum(self.rank, tensor))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.sum(parameter.grad)

    def gather_rows(self, local: torch.Tensor, count: int) -> torch.Tensor:
        rows = torch.zeros((count, *local.shape[1:]), dtype=local.dtype)
        rows[self.slice(count)] = local
        return self.sum(rows)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {name(loss): train(loss, Replicas.current(), None) for loss in STATISTICS}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    folder: Path = tmp_path_factory.mktemp("workers")
    spawn(worker, args=(str(folder),), nprocs=2)
    return torch.load(folder / "0.pt")


@pytest.fixture(scope="module")
def whole() -> dict[str, Found]:
    return {name(loss): train(loss, Replicas(), None) for loss in LOSSES}


@for_every_loss
def test_micro_batches_train_alike(loss: Loss, whole: dict[str, Found]) -> None:
    for key, value in train(loss, Replicas(), 8).items():
        torch.testing.assert_close(value, whole[name(loss)][key], atol=5e-5, rtol=1e-3)


@for_every_loss
def test_two_workers_train_alike(loss: Loss, whole: dict[str, Found]) -> None:
    desk = Desk()
    with ThreadPoolExecutor(2) as pool:
        both = [ThreadReplicas(rank, 2, desk=desk) for rank in range(2)]
        runs = [pool.submit(train, loss, replicas, None) for replicas in both]
        found = [run.result() for run in runs]
    for key, value in whole[name(loss)].items():
        assert torch.equal(found[0][key], found[1][key])
        torch.testing.assert_close(found[0][key], value, atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize("loss", STATISTICS, ids=name)
def test_two_processes_train_alike(
    loss: Loss, whole: dict[str, Found], two_processes: dict[str, Found]
) -> None:
    for key, value in two_processes[name(loss)].items():
        torch.testing.assert_close(value, whole[name(loss)][key], atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize("loss", STATISTICS, ids=name)
def test_statistics_of_a_part_would_change_the_result(
    loss: Loss, whole: dict[str, Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above would miss if the whole update made no difference."""
    monkeypatch.setattr(type(loss), "needs_whole_batch", False)
    alone = train(loss, Replicas(), 8)
    assert (alone["trained"] - whole[name(loss)]["trained"]).abs().max() > 1e-3


def test_the_losses_with_batch_statistics_are_those_with_a_threshold_of_the_update() -> None:
    assert {loss.kind for loss in STATISTICS} == {
        "confidence",
        "confidence_openai",
        "confidence_window",
    }
