"""A training that is killed after some update and goes on from its checkpoint ends bit by bit where
an undisturbed one ends, with the same curve."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel

from tests.w2s.training.interrupted import Killed, Memory
from w2s.corpora.base import Criterion, Phase, RowGroup
from w2s.errors import UnusableCheckpoint
from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.adapters import add_adapters
from w2s.models.classifier import Classifier, copy_backbone, fresh_head, prepare_backbone
from w2s.training.batching import TokenRows
from w2s.training.checkpointing import Checkpoints, pack, unpack
from w2s.training.config import GenerativeConfig, TrainConfig
from w2s.training.generative import finetune_language_model
from w2s.training.loop import ALONE, finetune
from w2s.training.members import MemberWeights
from w2s.training.optim import LearningRates
from w2s.training.parallel import Replicas
from w2s.training.pretraining import pretrain
from w2s.training.sharding import full_state
from w2s.weightings.learned import Learned

NUM_ROWS = 33
SHAPE = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
)
RECIPE = TrainConfig(learning_rate=3e-3, epochs=3, batch_size=8, weight_decay=0.1)


@dataclass
class Result:
    """What a training left."""

    weights: dict[str, torch.Tensor]
    curve: list[Any]
    others: list[float] = field(default_factory=list)

    def assert_same(self, other: "Result") -> None:
        assert self.weights.keys() == other.weights.keys()
        for name, tensor in self.weights.items():
            assert torch.equal(tensor, other.weights[name]), name
        assert self.curve == other.curve
        assert self.others == other.others


def texts() -> TokenRows:
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, size=NUM_ROWS)
    return TokenRows.from_lists([rng.integers(1, 32, size=size).tolist() for size in sizes])


def classify(
    checkpoints: Checkpoints | None,
    loss: Loss | None = None,
    lora: bool = False,
    members: bool = False,
    micro_batch_size: int | None = None,
    replicas: Replicas = ALONE,
    steps: list[int] | None = None,
) -> Result:
    torch.manual_seed(0)
    base = prepare_backbone(LlamaModel(SHAPE))
    backbone = copy_backbone(base, share=lora)
    if lora:
        add_adapters(backbone, rank=2, alpha=4.0, target_modules=(), seed=0)
    head = fresh_head(base, 2, head_init="random", seed=0, options=False)
    classifier = Classifier(backbone, head)
    rng = np.random.default_rng(1)
    targets = rng.dirichlet(np.ones(2), size=(NUM_ROWS, 3))
    weighting = Learned(learning_rate=0.05)
    learned = MemberWeights(weighting, weighting.weights(np.log(targets))) if members else None
    curve = finetune(
        classifier,
        texts(),
        targets if members else targets[:, 0],
        loss or Xent(),
        RECIPE,
        seed=0,
        members=learned,
        replicas=replicas,
        micro_batch_size=micro_batch_size,
        on_progress=lambda step, total, metrics: None if steps is None else steps.append(step),
        checkpoints=checkpoints,
    )
    others = learned.learned if learned else None
    return Result(full_state(classifier), curve, others or [])


def read_on(checkpoints: Checkpoints | None) -> Result:
    torch.manual_seed(0)
    model = LlamaForCausalLM(SHAPE)
    finetune_language_model(
        model,
        texts(),
        GenerativeConfig(learning_rate=3e-3, epochs=3, batch_size=8),
        seed=0,
        replicas=Replicas(),
        device="cpu",
        precision="fp32",
        micro_batch_size=None,
        on_progress=lambda step, total, metrics: None,
        checkpoints=checkpoints,
    )
    return Result(full_state(model), [])


def phase(name: str, measure: Callable[[PreTrainedModel], float] | None) -> Phase:
    def updates(seed: int) -> Iterator[list[RowGroup]]:
        rng = np.random.default_rng(seed)
        while True:
            ids_BT = torch.from_numpy(rng.integers(1, 32, size=(6, 5)))
            yield [RowGroup(ids_BT, ids_BT.roll(-1, 1), early_exit_BT=ids_BT % 2 == 0)]

    criterion = None
    if measure is not None:
        criterion = Criterion(
            evaluate=lambda model: {"norm": measure(model)}, thresholds={"norm": 0}, check_every=4
        )
    return Phase(
        name=name,
        updates=updates,
        learning_rates=LearningRates(embedding=1e-2),
        max_steps=12,
        warmup_steps=2,
        cooldown_steps=5,
        early_exit_weight=0.5,
        criterion=criterion,
    )


def norm(model: PreTrainedModel) -> float:
    return float(model.get_parameter("lm_head.weight").detach().square().sum())


def read(checkpoints: Checkpoints | None) -> Result:
    """Nine steps, four of them before the criterion holds, then twelve."""
    torch.manual_seed(0)
    model: PreTrainedModel = LlamaForCausalLM(SHAPE)
    curve = pretrain(
        model,
        [phase("first", norm), phase("second", None)],
        seed=0,
        replicas=Replicas(),
        on_progress=lambda step, total, metrics: None,
        checkpoints=checkpoints,
    )
    return Result(full_state(model), curve, [curve[-1].step])


TRAININGS: dict[str, Callable[[Checkpoints | None], Result]] = {
    "full": classify,
    "lora": lambda kept: classify(kept, lora=True),
    "whole update": lambda kept: classify(kept, Confidence(), micro_batch_size=3),
    "learned members": lambda kept: classify(kept, members=True),
    "language model": read_on,
    "pretraining": read,
}
# 15 updates of a finetuning, 21 of the pretraining: its second phase begins with the tenth.
UPDATES = [1, 4, 9, 10, 14, 15]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Result]:
    return {name: training(None) for name, training in TRAININGS.items()}


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("name", TRAININGS)
def test_killed_training_goes_on_bit_by_bit(
    undisturbed: dict[str, Result], name: str, update: int
) -> None:
    kept = Memory(stop_after=update)
    with pytest.raises(Killed):
        TRAININGS[name](kept)
    torch.rand(3)  # of whatever else the new process did
    TRAININGS[name](kept).assert_same(undisturbed[name])


def test_training_goes_on_only_from_where_it_was(undisturbed: dict[str, Result]) -> None:
    """The rest of the updates is what is done: a checkpoint after the last leaves nothing."""
    kept = Memory(stop_after=15)
    with pytest.raises(Killed):
        classify(kept)
    found = kept.load()
    assert found is not None
    tensors, _ = found
    name = next(name for name in tensors if name.startswith("weights/"))
    tensors[name] += 1
    kept.load = lambda: (tensors, found[1])
    changed = classify(kept).weights[name.removeprefix("weights/")]
    before = undisturbed["full"].weights[name.removeprefix("weights/")]
    assert torch.equal(changed, before + 1)


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for shards in (False, True):
        replicas = replace(Replicas.current(), shards=shards)
        # The first replica keeps and finds a state, the other one never does.
        kept = Memory(stop_after=0 if rank else 7, ends=False)
        whole = classify(kept, Confidence(), members=True, replicas=replicas)
        steps: list[int] = []
        again = classify(kept, Confidence(), members=True, replicas=replicas, steps=steps)
        assert steps[0] == 8
        again.assert_same(whole)
        dist.barrier()
    dist.destroy_process_group()


def test_replicas_go_on_together_from_what_the_first_one_kept(tmp_path: Path) -> None:
    spawn(one_of_two, args=(str(tmp_path),), nprocs=2)


def test_checkpoint_of_another_training_is_refused() -> None:
    kept = Memory(stop_after=3)
    with pytest.raises(Killed):
        classify(kept, lora=True)
    with pytest.raises(UnusableCheckpoint, match="other parameters"):
        classify(kept)


def test_state_is_tensors_and_json_and_comes_together_again() -> None:
    state = {"a": {"x": torch.ones(2), "n": [1, None, "word"]}, "b": [torch.zeros(1), 0.1]}
    tensors, facts = pack(state)
    assert sorted(tensors) == ["a/x", "b/0"]
    assert facts == {"a": {"x": "tensor:a/x", "n": [1, None, "word"]}, "b": ["tensor:b/0", 0.1]}
    state["a"]["x"] += 1  # training goes on while it is written
    again = unpack(tensors, facts)
    assert again["a"]["x"].tolist() == [1, 1]
    assert again["b"][1] == 0.1
