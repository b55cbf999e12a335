"""What every loss file promises, whatever its maths."""

import pytest
import torch
from torch import Tensor, nn

from w2s.losses.base import Batch, Loss
from w2s.spec import available, parse

KINDS = available(Loss)


class SumOfEmbeddings(nn.Module):
    """Maps token ids to three classes, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 3)
        nn.init.normal_(self.embedding.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        return (self.embedding(input_ids_BT) * attention_mask_BT.unsqueeze(2)).sum(1)


def make_batch(rows: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, 20, (rows, 5), generator=generator)
    targets = torch.randn(rows, 3, generator=generator).mul(2).softmax(1)
    return Batch(input_ids, torch.ones_like(input_ids), targets)


def take(batch: Batch, index: Tensor | slice, *, whole: Tensor | None = None) -> Batch:
    return Batch(
        batch.input_ids_BT[index],
        batch.attention_mask_BT[index],
        batch.targets_BC[index],
        whole_targets_NC=None if whole is None else batch.targets_BC,
        whole_logits_NC=whole,
    )


def loss_and_gradient(loss: Loss, batches: list[Batch], progress: float) -> tuple[float, Tensor]:
    model = SumOfEmbeddings()
    total = sum(len(batch.targets_BC) for batch in batches)
    value = 0.0
    for batch in batches:
        output = loss(model, batch, progress)
        share = len(batch.targets_BC) / total
        (output.loss * share).backward()
        value += float(output.loss.detach()) * share
    assert model.embedding.weight.grad is not None
    return value, model.embedding.weight.grad


def test_the_files_are_the_kinds() -> None:
    assert {"confidence", "product", "xent"} <= set(KINDS)


@pytest.mark.parametrize("progress", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_finite_and_teaches(kind: str, progress: float) -> None:
    value, gradient = loss_and_gradient(parse(Loss, kind), [make_batch()], progress)
    assert 0 < value < 20
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_scalars(kind: str) -> None:
    output = parse(Loss, kind)(SumOfEmbeddings(), make_batch(), 0.5)
    for value in output.metrics.values():
        assert not torch.as_tensor(value).requires_grad
        assert torch.as_tensor(value).ndim == 0


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_rows_does_not_matter(kind: str) -> None:
    batch = make_batch()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    value, gradient = loss_and_gradient(parse(Loss, kind), [batch], 0.5)
    mixed_value, mixed_gradient = loss_and_gradient(parse(Loss, kind), [take(batch, order)], 0.5)
    assert mixed_value == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(mixed_gradient, gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_cutting_an_update_does_not_matter(kind: str) -> None:
    batch = make_batch()
    loss = parse(Loss, kind)
    value, gradient = loss_and_gradient(loss, [batch], 0.5)
    whole = None
    if loss.needs_whole_batch:
        whole = SumOfEmbeddings()(batch.input_ids_BT, batch.attention_mask_BT).detach()
    parts = [take(batch, part, whole=whole) for part in (slice(0, 5), slice(5, 6), slice(6, 12))]
    cut_value, cut_gradient = loss_and_gradient(loss, parts, 0.5)
    assert cut_value == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(cut_gradient, gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_targets_are_allowed(kind: str) -> None:
    batch = make_batch()
    hard = torch.eye(3)[batch.targets_BC.argmax(1)]
    one_hot = Batch(batch.input_ids_BT, batch.attention_mask_BT, hard)
    value, gradient = loss_and_gradient(parse(Loss, kind), [one_hot], 0.5)
    assert 0 < value < 20
    assert gradient.isfinite().all()
