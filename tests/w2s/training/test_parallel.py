"""Replicas: rows are shared out and put together again, and two train like one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.evidential import Evidential
from w2s.losses.xent import Xent
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.batching import TokenRows
from w2s.training.config import GenerativeConfig, TrainConfig
from w2s.training.generative import finetune_language_model
from w2s.training.loop import finetune, predict
from w2s.training.members import MemberWeights
from w2s.training.parallel import Replicas
from w2s.weightings.dynamic import Dynamic
from w2s.weightings.learned import Learned

# 33 rows: the last update has one row, none of which is the first replica's.
NUM_ROWS = 33
CONFIDENCE = Confidence(max_weight=0.75, warmup_fraction=0.1)
LOSSES: dict[str, Loss] = {
    "confidence": CONFIDENCE,
    "xent": Xent(),
    "weights": CONFIDENCE,
    "options": CONFIDENCE,
    "options, weights": Xent(),
    "members, weights": CONFIDENCE,
    "learned members, weights": Evidential(),
}
"""By job; its name says what else is in it."""
SHAPE = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
)


def texts(num_texts: int, texts_per_row: int) -> TokenRows:
    """Texts of three to eight tokens."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, size=num_texts)
    flat = TokenRows.from_lists([rng.integers(1, 32, size=size).tolist() for size in sizes])
    return replace(flat, texts_per_row=texts_per_row)


def job(kind: str, replicas: Replicas, micro_batch_size: int | None) -> dict[str, torch.Tensor]:
    """A small training and its predictions."""
    torch.manual_seed(0)
    options = "options" in kind
    rows = texts(NUM_ROWS * (2 if options else 1), 2 if options else 1)
    rng = np.random.default_rng(1)
    p1 = rng.random(NUM_ROWS)
    targets = np.stack([1 - p1, p1], 1)
    members = None
    if "members" in kind:
        targets = rng.dirichlet(np.ones(2), size=(NUM_ROWS, 3))
        weighting = Learned(learning_rate=0.05) if "learned" in kind else Dynamic()
        members = MemberWeights(weighting, weighting.weights(np.log(targets)))
    classifier = Classifier.fresh(prepare_backbone(LlamaModel(SHAPE)), 2, seed=0, options=options)
    curve = finetune(
        classifier,
        rows,
        targets,
        LOSSES[kind],
        TrainConfig(learning_rate=3e-3, epochs=2, batch_size=32, weight_decay=0.1),
        seed=0,
        weights_N=rng.uniform(0, 2, size=NUM_ROWS) if "weights" in kind else None,
        members=members,
        replicas=replicas,
        micro_batch_size=micro_batch_size,
    )
    return {
        "weights": torch.cat([value.detach().flatten() for value in classifier.parameters()]),
        "predictions": torch.from_numpy(predict(classifier, rows, replicas=replicas)),
        "losses": torch.tensor([point["loss"] for point in curve]),
        "member weights": torch.tensor((members.learned if members else None) or []),
    }


def language_model_job(replicas: Replicas, micro_batch_size: int | None) -> dict[str, torch.Tensor]:
    """A small language-model finetuning."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SHAPE)
    losses: list[float] = []
    finetune_language_model(
        model,
        texts(NUM_ROWS, 1),
        GenerativeConfig(learning_rate=3e-3, epochs=2, batch_size=32),
        seed=0,
        replicas=replicas,
        device="cpu",
        precision="fp32",
        micro_batch_size=micro_batch_size,
        on_progress=lambda step, total, metrics: losses.append(metrics["loss"]),
    )
    return {
        "weights": torch.cat([value.detach().flatten() for value in model.parameters()]),
        "losses": torch.tensor(losses),
    }


def replica(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    replicas = Replicas.current()
    local = torch.arange(5.0)[replicas.slice(5)].unsqueeze(1)
    parameter = torch.nn.Parameter(torch.zeros(2))
    if rank == 0:
        parameter.grad = torch.tensor([1.0, 2.0])
    replicas.sum_gradients([parameter])
    found = {
        "gathered": replicas.gather_rows(local, 5),
        "gradient": parameter.grad,
        **{kind: job(kind, replicas, None) for kind in LOSSES},
        "both cut": job("confidence", replicas, 6),
        "language model": language_model_job(replicas, 6),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


EVERY = [*LOSSES, "both cut", "language model"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two replicas found."""
    folder: Path = tmp_path_factory.mktemp("replicas")
    spawn(replica, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 32])
def test_slices_share_out_every_row_once(size: int, count: int) -> None:
    rows = [row for rank in range(size) for row in range(count)[Replicas(rank, size).slice(count)]]
    assert rows == list(range(count))


def test_alone_there_is_nothing_to_send() -> None:
    assert Replicas.current() == Replicas(rank=0, size=1)
    tensor = torch.ones(3)
    assert Replicas().sum(tensor) is tensor
    assert Replicas().gather_rows(tensor, 3) is tensor


def test_rows_come_together_in_order(pair: list[dict]) -> None:
    for found in pair:
        assert found["gathered"].flatten().tolist() == [0, 1, 2, 3, 4]


def test_replica_without_a_gradient_receives_it(pair: list[dict]) -> None:
    for found in pair:
        assert found["gradient"].tolist() == [1, 2]


@pytest.mark.parametrize("kind", EVERY)
def test_replicas_agree_to_the_last_bit(pair: list[dict], kind: str) -> None:
    for name, value in pair[0][kind].items():
        assert torch.equal(value, pair[1][kind][name]), name


@pytest.mark.parametrize("kind", EVERY)
def test_two_train_like_one(pair: list[dict], kind: str) -> None:
    alone = (
        language_model_job(Replicas(), None)
        if kind == "language model"
        else job("confidence" if kind == "both cut" else kind, Replicas(), None)
    )
    for name, value in alone.items():
        torch.testing.assert_close(pair[0][kind][name], value, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", LOSSES)
def test_an_update_cut_in_four_trains_like_one(kind: str) -> None:
    whole, cut = (job(kind, Replicas(), size) for size in (None, 8))
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, atol=2e-5, rtol=1e-3)


def test_sample_weights_are_no_scale_but_a_choice() -> None:
    """Twice the weights are the same training; none of a row is a training without it."""
    torch.manual_seed(0)
    base = prepare_backbone(LlamaModel(SHAPE))
    config = TrainConfig(learning_rate=3e-3, epochs=2, batch_size=NUM_ROWS)
    targets = np.stack([np.full(NUM_ROWS, 0.2), np.full(NUM_ROWS, 0.8)], 1)

    def trained(rows: TokenRows, targets: np.ndarray, weights: np.ndarray) -> torch.Tensor:
        classifier = Classifier.fresh(base, 2, seed=0)
        finetune(classifier, rows, targets, Xent(), config, seed=0, weights_N=weights)
        return torch.cat([value.detach().flatten() for value in classifier.parameters()])

    weights = np.r_[np.ones(20), np.zeros(NUM_ROWS - 20)]
    one = trained(texts(NUM_ROWS, 1), targets, weights)
    torch.testing.assert_close(trained(texts(NUM_ROWS, 1), targets, 2 * weights), one)
    fewer = texts(NUM_ROWS, 1).take(np.arange(20))
    torch.testing.assert_close(trained(fewer, targets[:20], np.ones(20)), one, atol=2e-5, rtol=1e-3)
    plain = trained(texts(NUM_ROWS, 1), targets, np.ones(NUM_ROWS))
    assert (plain - one).abs().max() > 1e-4


def test_more_workers_than_rows_are_refused() -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    classifier = Classifier.fresh(prepare_backbone(LlamaModel(config)), 2)
    rows = TokenRows.from_lists([[1], [2]])
    with pytest.raises(ValueError, match="use at most 1 workers"):
        finetune(
            classifier,
            rows,
            np.eye(2),
            Xent(),
            TrainConfig(batch_size=1),
            seed=0,
            replicas=Replicas(0, 2),
        )
