"""Replicas: rows are shared out and put together again, and two train like one.

Two processes make every training below, with the whole model each or with a part of it; what they
find is compared with one process.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel

from tests.w2s.losses.toy import LOSSES, name
from w2s.corpora.base import Phase, RowGroup
from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.evidential import Evidential
from w2s.losses.xent import Xent
from w2s.models.adapters import add_adapters
from w2s.models.classifier import Classifier, copy_backbone, fresh_head, prepare_backbone
from w2s.training.acceleration import accelerate
from w2s.training.batching import TokenRows
from w2s.training.config import GenerativeConfig, TrainConfig
from w2s.training.generative import finetune_language_model
from w2s.training.loop import finetune, predict
from w2s.training.members import MemberWeights
from w2s.training.optim import LearningRates
from w2s.training.parallel import Replicas
from w2s.training.pretraining import pretrain
from w2s.training.sharding import full_state, load_full_state, trained
from w2s.types import Acceleration
from w2s.weightings.dynamic import Dynamic
from w2s.weightings.learned import Learned


@dataclass(frozen=True)
class Job:
    """A small training."""

    loss: Loss
    extras: str = ""
    """Words for what else is in it: weights, options, members, learned, lora, keep inputs."""
    shards: bool = False
    """Whether two replicas share the model out."""
    rows: int | None = None
    """`micro_batch_size`."""
    tokens: int | None = None
    """`micro_batch_tokens`."""
    bf16: bool = False


# 33 rows: the last update has one row, none of which is the first replica's.
NUM_ROWS = 33
CONFIDENCE = Confidence(max_weight=0.75, warmup_fraction=0.1)
JOBS = {
    **{f"replicate {name(loss)}": Job(loss) for loss in LOSSES},
    # 17 rows of one replica and 16 of the other: two parts and one, but for what keeps step.
    **{f"shard {name(loss)}": Job(loss, shards=True, rows=16) for loss in LOSSES},
    **{f"shard lora {name(loss)}": Job(loss, "lora", shards=True) for loss in LOSSES},
    "weights": Job(CONFIDENCE, "weights"),
    "shard weights": Job(CONFIDENCE, "weights", shards=True),
    "options": Job(CONFIDENCE, "options"),
    "shard options, weights": Job(Xent(), "options, weights", shards=True),
    "members, weights": Job(CONFIDENCE, "members, weights"),
    "learned members, weights": Job(Evidential(), "learned members, weights"),
    "shard learned members": Job(Evidential(), "learned members", shards=True),
    "cut": Job(CONFIDENCE, rows=6),
    "cut by tokens": Job(CONFIDENCE, tokens=40),
    "shard cut by tokens": Job(CONFIDENCE, shards=True, tokens=40),
    "keep inputs": Job(CONFIDENCE, "keep inputs"),
    "shard keep inputs lora": Job(CONFIDENCE, "keep inputs lora", shards=True),
}
SHAPE = LlamaConfig(
    vocab_size=33,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
)
"""A vocabulary of 33 has no equal halves."""


def texts(num_texts: int, texts_per_row: int) -> TokenRows:
    """Texts of three to eight tokens."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, size=num_texts)
    flat = TokenRows.from_lists([rng.integers(1, 33, size=size).tolist() for size in sizes])
    return replace(flat, texts_per_row=texts_per_row)


def fresh_classifier(lora: bool, options: bool) -> Classifier:
    torch.manual_seed(0)
    base = prepare_backbone(LlamaModel(SHAPE))
    backbone = copy_backbone(base, share=True)
    if lora:
        add_adapters(backbone, rank=2, alpha=4.0, target_modules=(), seed=0)
    head = fresh_head(base, 2, head_init="random", seed=0, options=options)
    return Classifier(backbone, head)


def flat(model: torch.nn.Module) -> torch.Tensor:
    """All that is trained."""
    return torch.cat([tensor.flatten() for tensor in full_state(model).values()])


def run(job: Job, replicas: Replicas) -> dict[str, torch.Tensor]:
    """A training and its predictions."""
    replicas = replace(replicas, shards=job.shards)
    options, extras = "options" in job.extras, job.extras
    rows = texts(NUM_ROWS * (2 if options else 1), 2 if options else 1)
    rng = np.random.default_rng(1)
    p1 = rng.random(NUM_ROWS)
    targets = np.stack([1 - p1, p1], 1)
    members = None
    if "members" in extras:
        targets = rng.dirichlet(np.ones(2), size=(NUM_ROWS, 3))
        weighting = Learned(learning_rate=0.05) if "learned" in extras else Dynamic()
        members = MemberWeights(weighting, weighting.weights(np.log(targets)))
    classifier = fresh_classifier("lora" in extras, options)
    accelerate(classifier.backbone, Acceleration(activation_checkpointing="keep inputs" in extras))
    curve = finetune(
        classifier,
        rows,
        targets,
        job.loss,
        TrainConfig(learning_rate=3e-3, epochs=2, batch_size=32, weight_decay=0.1),
        seed=0,
        weights_N=rng.uniform(0, 2, size=NUM_ROWS) if "weights" in extras else None,
        members=members,
        replicas=replicas,
        precision="bf16" if job.bf16 else "fp32",
        micro_batch_size=job.rows,
        micro_batch_tokens=job.tokens,
    )
    return {
        "weights": flat(classifier),
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
    return {"weights": flat(model), "losses": torch.tensor(losses)}


def pretraining_job(replicas: Replicas) -> dict[str, torch.Tensor]:
    """A small pretraining; its seven rows are no equal halves."""
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(SHAPE)
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(1, 33, (7, 5), generator=generator)
    group = RowGroup(ids_BT, ids_BT.roll(-1, 1), early_exit_BT=ids_BT % 2 == 0)

    def updates(seed: int) -> Iterator[list[RowGroup]]:
        yield from repeat([group])

    phase = Phase(
        name="read",
        updates=updates,
        learning_rates=LearningRates(embedding=1e-2),
        max_steps=10,
        warmup_steps=2,
        cooldown_steps=2,
        early_exit_weight=0.5,
    )
    curve = pretrain(
        model, [phase], seed=0, replicas=replicas, on_progress=lambda step, total, metrics: None
    )
    losses = torch.tensor([point.metrics["loss"] for point in curve])
    return {"weights": flat(model), "losses": losses}


def shared_out(replicas: Replicas) -> dict[str, torch.Tensor]:
    """How a model lies on two replicas, and what is left of it after a round trip."""
    classifier = fresh_classifier(lora=False, options=False)
    replicas = replace(replicas, shards=True)
    rows = texts(NUM_ROWS, 1)
    targets = np.full((NUM_ROWS, 2), 0.5)
    config = TrainConfig(epochs=1, batch_size=32)
    before = predict(classifier, rows, replicas=replicas)
    kept = full_state(classifier)
    finetune(classifier, rows, targets, Xent(), config, seed=0, replicas=replicas)
    after = predict(classifier, rows, replicas=replicas)
    load_full_state(classifier, kept)
    own = sum(
        (value.to_local() if isinstance(value, DTensor) else value).numel()
        for _, value in trained(classifier)
    )
    return {
        "before": torch.from_numpy(before),
        "after": torch.from_numpy(after),
        "restored": torch.from_numpy(predict(classifier, rows, replicas=replicas)),
        "own": torch.tensor(own),
        "all": torch.tensor(sum(tensor.numel() for tensor in kept.values())),
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
        **{kind: run(job, replicas) for kind, job in JOBS.items()},
        "bf16": run(replace(JOBS["cut"], bf16=True, shards=True), replicas),
        "language model": language_model_job(replicas, 6),
        "shard language model": language_model_job(replace(replicas, shards=True), 6),
        "pretraining": pretraining_job(replicas),
        "shared out": shared_out(replicas),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def alone(kind: str) -> dict[str, torch.Tensor]:
    """What one process finds, which goes through each update in one piece."""
    if kind.endswith("language model"):
        return language_model_job(Replicas(), None)
    if kind == "pretraining":
        return pretraining_job(Replicas())
    return run(replace(JOBS[kind], rows=None, tokens=None), Replicas())


EVERY = [*JOBS, "language model", "shard language model", "pretraining"]


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
    for quantity, value in pair[0][kind].items():
        assert torch.equal(value, pair[1][kind][quantity]), quantity


@pytest.mark.parametrize("kind", EVERY)
def test_two_train_like_one(pair: list[dict], kind: str) -> None:
    for quantity, value in alone(kind).items():
        torch.testing.assert_close(pair[0][kind][quantity], value, atol=2e-5, rtol=1e-3)


def test_two_in_half_precision_stay_near_one_in_full(pair: list[dict]) -> None:
    whole, halved = alone("cut"), pair[0]["bf16"]
    torch.testing.assert_close(halved["losses"], whole["losses"], atol=0.02, rtol=0)
    torch.testing.assert_close(halved["predictions"], whole["predictions"], atol=0.1, rtol=0)
    assert not torch.equal(halved["predictions"], whole["predictions"])


def test_each_of_two_holds_half_of_a_model_that_is_shared_out(pair: list[dict]) -> None:
    sizes = [int(found["shared out"]["own"]) for found in pair]
    whole = int(pair[0]["shared out"]["all"])
    # The head, 32 numbers, is on both.
    assert sum(sizes) == whole + 32
    assert abs(sizes[0] - sizes[1]) <= 16


def test_weights_that_were_kept_come_back_to_where_they_lay(pair: list[dict]) -> None:
    for found in pair:
        model = found["shared out"]
        assert torch.equal(model["restored"], model["before"])
        assert (model["after"] - model["before"]).abs().max() > 1e-4


@pytest.mark.parametrize("loss", LOSSES, ids=name)
@pytest.mark.parametrize("extras", ["", "weights", "options", "members"])
def test_an_update_cut_in_four_trains_like_one(loss: Loss, extras: str) -> None:
    whole, cut = (run(Job(loss, extras, rows=size), Replicas()) for size in (None, 8))
    for quantity, value in whole.items():
        torch.testing.assert_close(cut[quantity], value, atol=2e-5, rtol=1e-3)


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
