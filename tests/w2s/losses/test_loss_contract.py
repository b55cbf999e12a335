"""What every loss file promises, whatever its maths."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from tests.w2s.losses.toy import KINDS, LOSSES, apply, for_every_loss, name
from w2s.errors import UserError
from w2s.losses.base import Batch, Loss
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.batching import TokenRows
from w2s.training.config import TrainConfig
from w2s.training.loop import finetune


def takes_three_classes(loss: Loss) -> bool:
    try:
        loss.check_classes(3)
    except UserError:
        return False
    return True


for_every_loss_of_rows = pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if not loss.needs_whole_batch], ids=name
)


class SumOfEmbeddings(nn.Module):
    """Maps token ids to classes, row by row."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, num_classes)
        nn.init.normal_(self.embedding.weight, generator=torch.Generator().manual_seed(1))

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        return (self.embedding(input_ids_BT) * attention_mask_BT.unsqueeze(2)).sum(1)


def num_classes(loss: Loss) -> int:
    return 3 if takes_three_classes(loss) else 2


def make_batch(loss: Loss, rows: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(0, 20, (rows, 5), generator=generator)
    targets = torch.randn(rows, num_classes(loss), generator=generator).mul(2).softmax(1)
    return Batch(input_ids, torch.ones_like(input_ids), targets)


def take(batch: Batch, index: Tensor | slice, *, whole: Tensor | None = None) -> Batch:
    return Batch(
        batch.input_ids_BT[index],
        batch.attention_mask_BT[index],
        batch.targets_BC[index],
        whole_targets_NC=None if whole is None else batch.targets_BC,
        whole_logits_NC=whole,
    )


def loss_and_gradient(loss: Loss, batches: list[Batch], progress: float) -> tuple[Tensor, Tensor]:
    """Losses [N] of all rows, and the gradient of their mean."""
    model = SumOfEmbeddings(num_classes(loss))
    total = sum(len(batch.targets_BC) for batch in batches)
    losses = []
    for batch in batches:
        output = loss(model, batch, progress)
        (output.losses_B.sum() / total).backward()
        losses.append(output.losses_B.detach())
    assert model.embedding.weight.grad is not None
    return torch.cat(losses), model.embedding.weight.grad


def test_the_files_are_the_kinds() -> None:
    assert KINDS == [
        "confidence",
        "confidence_openai",
        "confidence_window",
        "entropy",
        "evidential",
        "generalized_xent",
        "kl",
        "pairwise",
        "product",
        "reverse_kl",
        "xent",
    ]


@pytest.mark.parametrize("progress", [0.0, 0.1, 1.0])
@for_every_loss
def test_loss_is_one_finite_number_a_row_and_teaches(loss: Loss, progress: float) -> None:
    losses, gradient = loss_and_gradient(loss, [make_batch(loss)], progress)
    assert losses.shape == (12,)
    assert losses.min() >= 0
    assert losses.mean() < 20
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 1e-4


@for_every_loss
def test_metrics_are_scalars(loss: Loss) -> None:
    output = loss(SumOfEmbeddings(num_classes(loss)), make_batch(loss), 0.5)
    for value in output.metrics.values():
        assert not torch.as_tensor(value).requires_grad
        assert torch.as_tensor(value).ndim == 0


@for_every_loss
def test_order_of_rows_does_not_matter(loss: Loss) -> None:
    batch = make_batch(loss)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    losses, gradient = loss_and_gradient(loss, [batch], 0.5)
    mixed_losses, mixed_gradient = loss_and_gradient(loss, [take(batch, order)], 0.5)
    torch.testing.assert_close(mixed_losses, losses[order])
    torch.testing.assert_close(mixed_gradient, gradient)


@for_every_loss
def test_cutting_an_update_does_not_matter(loss: Loss) -> None:
    batch = make_batch(loss)
    losses, gradient = loss_and_gradient(loss, [batch], 0.5)
    whole = None
    if loss.needs_whole_batch:
        model = SumOfEmbeddings(num_classes(loss))
        whole = model(batch.input_ids_BT, batch.attention_mask_BT).detach()
    parts = [take(batch, part, whole=whole) for part in (slice(0, 5), slice(5, 6), slice(6, 12))]
    cut_losses, cut_gradient = loss_and_gradient(loss, parts, 0.5)
    torch.testing.assert_close(cut_losses, losses)
    torch.testing.assert_close(cut_gradient, gradient)


@pytest.mark.parametrize("progress", [0.0, 0.1, 1.0])
@for_every_loss
def test_extreme_logits_and_labels_give_finite_losses_and_gradients(
    loss: Loss, progress: float
) -> None:
    sure = [[50.0, -50.0], [-50.0, 50.0], [0.0, 0.0], [50.0, 50.0], [-50.0, -50.0]]
    hard = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, 1e-30]]
    logits = torch.tensor([row for row in sure for _ in hard])
    labels = torch.tensor([row for _ in sure for row in hard])
    if takes_three_classes(loss):
        logits = torch.cat([logits, -logits[:, :1]], 1)
        labels = torch.cat([labels, torch.zeros(len(labels), 1)], 1)
    output, gradient = apply(loss, logits, labels, progress)
    assert output.losses_B.isfinite().all()
    assert gradient.isfinite().all()
    for value in output.metrics.values():
        assert torch.as_tensor(value).isfinite()


@for_every_loss
def test_a_loss_keeps_nothing_from_one_call_to_the_next(loss: Loss) -> None:
    first, gradient = loss_and_gradient(loss, [make_batch(loss)], 0.5)
    for step in range(40):
        loss_and_gradient(loss, [make_batch(loss, rows=3 + step % 5)], step / 40)
    again, gradient_again = loss_and_gradient(loss, [make_batch(loss)], 0.5)
    assert torch.equal(first, again)
    assert torch.equal(gradient, gradient_again)


@for_every_loss
def test_number_of_classes_is_refused_before_compute_or_worked_with(loss: Loss) -> None:
    loss.check_classes(2)
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.eye(6, 4)
    labels[4:, 0] = 1
    if takes_three_classes(loss):
        loss.check_classes(4)
        assert apply(loss, logits, labels)[0].losses_B.isfinite().all()
    else:
        with pytest.raises(UserError, match="is defined for 2 classes"):
            apply(loss, logits, labels)


# --- Through the training loop ---


@pytest.fixture(scope="module")
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


ROWS = 9


def curve_of(
    loss: Loss, backbone: PreTrainedModel, rows: list[int], weights: list[float] | None
) -> tuple[list[float], Tensor]:
    """Loss of each of five updates over all the rows, and the weights they lead to."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 32, size=6).tolist() for _ in range(ROWS)]
    labels = rng.dirichlet(np.ones(2), size=ROWS)
    classifier = Classifier.fresh(backbone, 2, seed=0)
    classifier.head.weight.data *= 20  # so that the student has opinions
    curve = finetune(
        classifier,
        TokenRows.from_lists([texts[row] for row in rows]),
        labels[rows],
        loss,
        TrainConfig(learning_rate=3e-3, epochs=5, batch_size=16),
        seed=0,
        weights_N=None if weights is None else np.array(weights),
    )
    trained = torch.cat([value.detach().flatten() for value in classifier.parameters()])
    return [point["loss"] for point in curve], trained


@for_every_loss_of_rows
def test_weight_of_two_is_the_row_twice(loss: Loss, backbone: PreTrainedModel) -> None:
    train = partial(curve_of, loss, backbone)
    weighted, weighted_end = train([*range(ROWS)], [2.0] + [1.0] * (ROWS - 1))
    twice, twice_end = train([0, *range(ROWS)], None)
    once, _ = train([*range(ROWS)], None)
    assert weighted == pytest.approx(twice, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(weighted_end, twice_end, atol=5e-5, rtol=1e-3)
    assert weighted != pytest.approx(once, rel=1e-3)


@for_every_loss_of_rows
def test_weight_of_zero_is_the_row_left_out(loss: Loss, backbone: PreTrainedModel) -> None:
    train = partial(curve_of, loss, backbone)
    weighted, weighted_end = train([*range(ROWS)], [0.0] + [1.0] * (ROWS - 1))
    without, without_end = train([*range(1, ROWS)], None)
    assert weighted == pytest.approx(without, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(weighted_end, without_end, atol=5e-5, rtol=1e-3)
