"""The loop: it learns, repeats itself, and does not care how an update is cut."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.batching import TokenRows
from w2s.training.config import Schedule, TrainConfig, learning_rate_factor
from w2s.training.loop import build_optimizer, finetune, predict

CONFIG = TrainConfig(learning_rate=3e-3, epochs=2, batch_size=32, weight_decay=0.1)


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    return prepare_backbone(LlamaModel(config))


@pytest.fixture(scope="module")
def data() -> tuple[TokenRows, np.ndarray]:
    """Texts of 3 to 12 tokens; the class is the parity of the last token; labels are soft."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 32, size=size).tolist() for size in rng.integers(3, 13, size=200)]
    p1 = np.array([0.9 if text[-1] % 2 else 0.15 for text in texts])
    return TokenRows.from_lists(texts), np.stack([1 - p1, p1], 1)


def train(
    base: PreTrainedModel,
    data: tuple[TokenRows, np.ndarray],
    loss: Loss,
    config: TrainConfig = CONFIG,
    seed: int = 0,
    micro_batch_size: int | None = None,
) -> tuple[Classifier, list[dict[str, float]]]:
    classifier = Classifier.fresh(base, 2, seed=seed)
    curve = finetune(classifier, *data, loss, config, seed=seed, micro_batch_size=micro_batch_size)
    return classifier, curve


def weights(classifier: Classifier) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in classifier.parameters()])


def test_it_learns(base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]) -> None:
    config = TrainConfig(learning_rate=1e-2, epochs=15, batch_size=32)
    classifier, curve = train(base, data, Xent(), config)
    right = predict(classifier, data[0]).argmax(1) == data[1].argmax(1)
    assert right.mean() > 0.95
    assert curve[-1]["loss"] < 0.75 * curve[0]["loss"]


def test_it_repeats_itself(base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]) -> None:
    first, first_curve = train(base, data, Confidence(), seed=3)
    torch.rand(7)  # the global random state has no part in it
    second, second_curve = train(base, data, Confidence(), seed=3)
    assert torch.equal(weights(first), weights(second))
    assert first_curve == second_curve
    other, _ = train(base, data, Confidence(), seed=4)
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("loss", [Xent(), Confidence(max_weight=0.75, warmup_fraction=0.1)])
def test_micro_batches_change_nothing(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray], loss: Loss
) -> None:
    whole, whole_curve = train(base, data, loss)
    for size in (8, 5):
        cut, cut_curve = train(base, data, loss, micro_batch_size=size)
        torch.testing.assert_close(weights(cut), weights(whole), atol=2e-5, rtol=1e-3)
        for point, whole_point in zip(cut_curve, whole_curve, strict=True):
            assert point == pytest.approx(whole_point, rel=1e-4, abs=1e-6)


def test_threshold_of_a_part_would_change_the_result(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would miss if the whole update made no difference."""
    loss = Confidence(max_weight=0.75, warmup_fraction=0.1)
    whole, _ = train(base, data, loss)
    monkeypatch.setattr(Confidence, "needs_whole_batch", False)
    cut, _ = train(base, data, loss, micro_batch_size=8)
    assert (weights(cut) - weights(whole)).abs().max() > 1e-3


def test_uncut_update_needs_no_second_pass(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]
) -> None:
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    classifier = Classifier.fresh(base, 2)
    classifier.backbone.register_forward_hook(count)
    curve = finetune(classifier, *data, Confidence(), CONFIG, seed=0)
    assert passes == curve[-1]["step"] == 14


def test_a_part_frees_its_graph_before_the_next_is_built(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]
) -> None:
    """What backward passes keep at most: four parts of 8 rows take what one update of 8 takes."""

    def most_kept(batch_size: int, micro_batch_size: int | None) -> int:
        now = most = 0

        class Kept:
            def __init__(self, tensor: torch.Tensor) -> None:
                nonlocal now, most
                self.tensor = tensor
                now += tensor.numel()
                most = max(most, now)

            def __del__(self) -> None:
                nonlocal now
                now -= self.tensor.numel()

        config = CONFIG.model_copy(update={"batch_size": batch_size, "epochs": 1})
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            train(base, data, Xent(), config, micro_batch_size=micro_batch_size)
        return most

    assert most_kept(32, 8) < 1.2 * most_kept(8, None)
    assert most_kept(32, None) > 2 * most_kept(32, 8)


def test_gradient_is_clipped_to_the_norm(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]
) -> None:
    """A clipped gradient moves Adam alike whatever the scale of the loss before clipping."""
    free, _ = train(base, data, Xent(), CONFIG.model_copy(update={"max_grad_norm": None}))
    clipped, _ = train(base, data, Xent(), CONFIG.model_copy(update={"max_grad_norm": 1e-3}))
    assert not torch.equal(weights(free), weights(clipped))


def test_curve_has_a_point_a_step_with_the_metrics_of_the_loss(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]
) -> None:
    reported: list[tuple[int, int]] = []
    classifier = Classifier.fresh(base, 2)
    curve = finetune(
        classifier,
        *data,
        Confidence(max_weight=0.5, warmup_fraction=0.5),
        CONFIG,
        seed=0,
        on_progress=lambda step, total, metrics: reported.append((step, total)),
    )
    assert [point["step"] for point in curve] == list(range(1, 15))
    assert reported == [(step, 14) for step in range(1, 15)]
    # The weight at the step after 5 of 14: .5 * (5 / 14) / .5.
    assert curve[5]["confidence_weight"] == pytest.approx(5 / 14)
    assert 0 <= curve[5]["hardened_agreement"] <= 1


def test_long_curve_is_thinned(base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]) -> None:
    config = TrainConfig(learning_rate=1e-4, epochs=1, batch_size=1)
    _, curve = train(base, data, Xent(), config)
    assert len(curve) == 100
    assert [curve[0]["step"], curve[-1]["step"]] == [2, 200]


def test_diverging_training_fails_loudly(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]
) -> None:
    targets = np.full_like(data[1], np.inf)
    with pytest.raises(FloatingPointError, match=r"by step 1 of 14.*lower `learning_rate`"):
        train(base, (data[0], targets), Xent())


def test_targets_must_fit_the_rows(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]
) -> None:
    with pytest.raises(ValueError, match="found 200 rows and 3 targets"):
        train(base, (data[0], data[1][:3]), Xent())


def test_predictions_are_logprobs_in_row_order(
    base: PreTrainedModel, data: tuple[TokenRows, np.ndarray]
) -> None:
    rows, _ = data
    classifier = Classifier.fresh(base, 2, seed=5)
    found = predict(classifier, rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)
    for index in (0, 57, 199):
        start, length = int(rows.starts[index]), int(rows.lengths[index])
        ids = rows.ids[start : start + length].unsqueeze(0)
        with torch.no_grad():
            alone = classifier(ids, torch.ones_like(ids)).log_softmax(1)[0]
        np.testing.assert_allclose(found[index], alone, atol=1e-5)
    np.testing.assert_allclose(predict(classifier, rows, micro_batch_size=7), found, atol=1e-5)


def test_norms_and_embeddings_do_not_decay(base: PreTrainedModel) -> None:
    classifier = Classifier.fresh(base, 2)
    config = TrainConfig(learning_rate=1e-4, head_learning_rate=1e-2, weight_decay=0.1)
    matrices, others, head = build_optimizer(classifier, config).param_groups
    assert (matrices["weight_decay"], others["weight_decay"], head["weight_decay"]) == (0.1, 0, 0.1)
    assert (matrices["lr"], others["lr"], head["lr"]) == (1e-4, 1e-4, 1e-2)
    table = classifier.backbone.get_input_embeddings().weight
    assert any(parameter is table for parameter in others["params"])
    assert all(p.ndim == 1 for p in others["params"] if p is not table)
    assert len(matrices["params"]) == 14
    assert sum(len(group["params"]) for group in (matrices, others, head)) == len(
        list(classifier.parameters())
    )


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_learning_rate_rises_then_falls_without_a_jump(schedule: Schedule) -> None:
    factors = [learning_rate_factor(schedule, 0.2, step, 100) for step in range(100)]
    assert factors[:2] == pytest.approx([1 / 21, 2 / 21])
    assert max(factors) == factors[20] == pytest.approx(1)
    assert min(factors) > 0
    jumps = [abs(b - a) for a, b in pairwise(factors)]
    assert max(jumps) < 0.05
    end = {"cosine": 0.0004, "linear": 1 / 80, "constant": 1.0}[schedule]
    assert factors[-1] == pytest.approx(end, abs=1e-4)


def test_schedule_of_one_step_trains() -> None:
    for warmup_fraction in (0.0, 0.5):
        factor = learning_rate_factor("cosine", warmup_fraction, 0, 1)
        assert math.isfinite(factor)
        assert 0 < factor <= 1
