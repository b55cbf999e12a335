"""Learning on top of given logits."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel

from w2s.losses.base import Batch
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.models.part import drawn
from w2s.training.batching import TokenRows
from w2s.training.config import ProbeConfig, TrainConfig
from w2s.training.loop import finetune
from w2s.training.offsets import Plus, as_offsets
from w2s.training.probing import fit_probe

OFFSETS = np.array([[2.0, 0.0], [-1.0, 1.0], [0.0, 0.5], [3.0, -3.0], [0.1, 0.2]])
LABELS = np.array([0, 0, 1, 1, 1])
TARGETS = np.eye(2)[LABELS]


def loss_of_the_offsets_alone() -> float:
    losses = np.logaddexp.reduce(OFFSETS, axis=1) - OFFSETS[np.arange(5), LABELS]
    return float(losses.mean())


def test_the_gradient_for_the_logits_is_what_the_offsets_leave_over() -> None:
    given = torch.zeros(5, 2, requires_grad=True)

    class Fixed(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return given

    offsets = torch.tensor(OFFSETS)
    batch = Batch(torch.zeros(5, 1), torch.ones(5, 1), torch.tensor(TARGETS))
    Xent()(Plus(Fixed(), offsets), batch, 0.0).losses_B.sum().backward()
    torch.testing.assert_close(
        given.grad, (offsets.softmax(1) - torch.tensor(TARGETS)).float(), check_dtype=False
    )


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_each_row_of_a_finetuning_gets_its_own_offset(micro_batch_size: int | None) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    classifier = Classifier.fresh(prepare_backbone(LlamaModel(config)), 2, head_init="zero")
    curve = finetune(
        classifier,
        TokenRows.from_lists([[1, 2, 3], [4], [5, 6], [7, 8, 9, 1], [2, 2]]),
        TARGETS,
        Xent(),
        TrainConfig(epochs=1, batch_size=5),
        seed=3,
        offsets_NC=OFFSETS,
        micro_batch_size=micro_batch_size,
    )
    assert curve[0]["loss"] == pytest.approx(loss_of_the_offsets_alone(), abs=1e-6)


def test_each_row_of_a_probe_gets_its_own_offset_and_the_probe_corrects_them() -> None:
    features = torch.eye(5)
    curve: list[float] = []
    fitted = fit_probe(
        features,
        TARGETS,
        Xent(),
        ProbeConfig(epochs=50, batch_size=5, learning_rate=0.5),
        seed=0,
        offsets_NC=OFFSETS,
        on_progress=lambda step, total, metrics: curve.append(metrics["loss"]),
    )
    assert curve[0] == pytest.approx(loss_of_the_offsets_alone(), abs=1e-6)
    logits = functional.linear(features, fitted.head.weight_CD, fitted.head.bias_C).numpy()
    assert ((OFFSETS + logits).argmax(1) == LABELS).all()
    # What is right already is hardly moved, what is wrong by six is moved far.
    assert abs(logits[0, 0] - logits[0, 1]) < 2 * 6 < 2 * (logits[3, 1] - logits[3, 0])


def test_offsets_are_refused_where_a_loss_looks_at_the_whole_update() -> None:
    with pytest.raises(ValueError, match="'confidence' does not go with offsets"):
        as_offsets(OFFSETS, Confidence())


def test_a_probe_reads_the_share_of_the_features_that_is_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 10, generator=generator)
    targets = np.eye(2)[(features[:, 0] > 0).long().numpy()]
    config = ProbeConfig(epochs=5, feature_share=0.3, feature_seed=2, weight_decay=0.1)
    weight_CD = fit_probe(features, targets, Xent(), config, seed=0).head.weight_CD
    read = drawn(10, 0.3, seed=2) == 1
    assert weight_CD[:, read].all()
    assert not weight_CD[:, ~read].any()
