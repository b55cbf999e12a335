"""A device that runs out of memory: updates are cut up further, and come to the same.

Memory is full where a forward pass has more rows than a hook allows, or at one call of it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel

from w2s.corpora.base import Phase, RowGroup
from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.batching import TokenRows
from w2s.training.config import GenerativeConfig, TrainConfig
from w2s.training.generative import finetune_language_model
from w2s.training.loop import ALONE, finetune, predict
from w2s.training.members import MemberWeights
from w2s.training.optim import LearningRates
from w2s.training.parallel import Replicas
from w2s.training.pretraining import pretrain
from w2s.weightings.learned import Learned

NUM_ROWS = 24
RECIPE = TrainConfig(learning_rate=3e-3, epochs=2, batch_size=8)
SHAPE = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
)


class Memory:
    """A hook that runs out of memory."""

    def __init__(self, max_rows: int = 1000, at_call: int = 0) -> None:
        """Args: max_rows: of a pass. at_call: number of the pass that fails, whatever its size."""
        self.rows: list[int] = []
        """Rows of each pass that went well."""
        self._max_rows = max_rows
        self._at_call = at_call
        self._calls = 0

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids_BT = args[0] if args else kwargs["input_ids"]
        self._calls += 1
        if len(ids_BT) > self._max_rows or self._calls == self._at_call:
            raise torch.OutOfMemoryError(f"no room for {len(ids_BT)} rows")
        self.rows.append(len(ids_BT))


def texts() -> TokenRows:
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, size=NUM_ROWS)
    return TokenRows.from_lists([rng.integers(1, 32, size=size).tolist() for size in sizes])


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier.fresh(prepare_backbone(LlamaModel(SHAPE)), 2, seed=0)


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train(
    memory: Memory,
    loss: Loss | None = None,
    micro_batch_size: int | None = None,
    members: bool = False,
    replicas: Replicas = ALONE,
) -> tuple[torch.Tensor, list[dict[str, float]], list[int]]:
    """Weights, curve, and the sizes it shrank to."""
    model = classifier()
    model.register_forward_pre_hook(memory, with_kwargs=True)
    targets = np.random.default_rng(1).dirichlet(np.ones(2), size=(NUM_ROWS, 3))
    weighting = Learned(learning_rate=0.05)
    weights = MemberWeights(weighting, weighting.weights(np.log(targets))) if members else None
    sizes: list[int] = []
    curve = finetune(
        model,
        texts(),
        targets if members else targets[:, 0],
        loss or Xent(),
        RECIPE,
        seed=0,
        members=weights,
        replicas=replicas,
        micro_batch_size=micro_batch_size,
        on_shrink=sizes.append,
    )
    return flat(model), curve, sizes


LOSSES = {"xent": Xent(), "confidence": Confidence(max_weight=0.75, warmup_fraction=0.1)}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_updates_are_halved_until_they_fit(loss: Loss) -> None:
    weights, curve, sizes = train(memory := Memory(max_rows=3), loss)
    assert sizes == [4, 2]
    assert max(memory.rows) == 2
    # From the first update on it is the training of two rows a pass, bit by bit.
    of_two, curve_of_two, _ = train(Memory(), loss, micro_batch_size=2)
    assert torch.equal(weights, of_two)
    assert curve == curve_of_two
    whole, _, _ = train(Memory(), loss)
    torch.testing.assert_close(weights, whole, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("members", [False, True])
def test_update_that_failed_half_way_counts_once(members: bool) -> None:
    # Two passes an update: the sixth is the second one of the third update.
    weights, curve, sizes = train(Memory(at_call=6), micro_batch_size=4, members=members)
    assert sizes == [2]
    whole, whole_curve, _ = train(Memory(), members=members)
    torch.testing.assert_close(weights, whole, atol=2e-5, rtol=1e-3)
    assert [point["step"] for point in curve] == [1, 2, 3, 4, 5, 6]
    for point, wanted in zip(curve, whole_curve, strict=True):
        assert point == pytest.approx(wanted, abs=1e-5)


def test_single_row_that_does_not_fit_is_an_error_that_says_so() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="of one row; train adapters"):
        train(Memory(max_rows=0))


def test_predictions_are_made_in_smaller_parts() -> None:
    model = classifier()
    before = predict(model, texts())
    memory = Memory(max_rows=5)
    model.register_forward_pre_hook(memory, with_kwargs=True)
    np.testing.assert_allclose(predict(model, texts()), before, atol=1e-6)
    assert sum(memory.rows) == NUM_ROWS


def test_language_model_reads_on_in_smaller_parts() -> None:
    def read_on(memory: Memory) -> tuple[torch.Tensor, list[int]]:
        torch.manual_seed(0)
        model = LlamaForCausalLM(SHAPE)
        model.register_forward_pre_hook(memory, with_kwargs=True)
        sizes: list[int] = []
        finetune_language_model(
            model,
            texts(),
            GenerativeConfig(learning_rate=3e-3, epochs=2, batch_size=8),
            seed=0,
            replicas=Replicas(),
            device="cpu",
            precision="fp32",
            micro_batch_size=None,
            on_progress=lambda step, total, metrics: None,
            on_shrink=sizes.append,
        )
        return flat(model), sizes

    weights, sizes = read_on(Memory(max_rows=5))
    assert sizes == [4]
    torch.testing.assert_close(weights, read_on(Memory())[0], atol=2e-5, rtol=1e-3)


def test_pretraining_goes_on_in_smaller_parts() -> None:
    def updates(seed: int) -> Iterator[list[RowGroup]]:
        rng = np.random.default_rng(seed)
        while True:
            groups = [torch.from_numpy(rng.integers(1, 32, size=(n, 5))) for n in (7, 4)]
            yield [
                RowGroup(ids_BT, ids_BT.roll(-1, 1), weight=0.5, early_exit_BT=ids_BT % 2 == 0)
                for ids_BT in groups
            ]

    phase = Phase(
        name="read",
        updates=updates,
        learning_rates=LearningRates(embedding=1e-2),
        max_steps=20,
        warmup_steps=2,
        cooldown_steps=2,
        early_exit_weight=0.5,
    )

    def read(memory: Memory) -> tuple[torch.Tensor, list[float], list[int]]:
        torch.manual_seed(0)
        model: PreTrainedModel = LlamaForCausalLM(SHAPE)
        model.base_model.register_forward_pre_hook(memory, with_kwargs=True)
        sizes: list[int] = []
        curve = pretrain(
            model,
            [phase],
            seed=0,
            replicas=Replicas(),
            on_progress=lambda step, total, metrics: None,
            on_shrink=sizes.append,
        )
        return flat(model), [point.metrics["loss"] for point in curve], sizes

    weights, losses, sizes = read(memory := Memory(max_rows=4))
    assert sizes == [3]
    assert set(memory.rows) == {1, 3}
    whole, whole_losses, _ = read(Memory())
    torch.testing.assert_close(weights, whole, atol=1e-4, rtol=1e-3)
    assert losses == pytest.approx(whole_losses, abs=1e-5)


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    memory = Memory(max_rows=2 if rank else 1000)
    found = {
        name: train(memory, loss, replicas=Replicas.current()) for name, loss in LOSSES.items()
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_replicas_shrink_together_when_one_of_them_is_full(tmp_path: Path) -> None:
    spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, loss in LOSSES.items():
        # Eight rows an update, four of each.
        assert first[name][2] == second[name][2] == [2]
        assert torch.equal(first[name][0], second[name][0])
        whole, _, _ = train(Memory(), loss)
        torch.testing.assert_close(first[name][0], whole, atol=2e-5, rtol=1e-3)
