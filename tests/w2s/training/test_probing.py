"""Probes: against torch's own optimizer, and against the solution of a convex problem."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from w2s.losses.base import Loss
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.classifier import Head
from w2s.training.config import ProbeConfig
from w2s.training.probing import fit_probe, probe_logprobs


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """60 rows of 5 numbers of unlike scale and mean; the fourth never varies."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 20.0, 0.1, 0.0, 1.0])
    return torch.randn(60, 5, generator=generator) * scale + torch.tensor([0.0, 9, 1, 7, -3])


@pytest.fixture(scope="module")
def targets() -> np.ndarray:
    p1 = np.random.default_rng(1).random(60)
    return np.stack([1 - p1, p1], 1)


def in_torch(
    features: torch.Tensor, targets: np.ndarray, config: ProbeConfig, weights: torch.Tensor
) -> tuple[nn.Linear, torch.Tensor]:
    """Full-batch AdamW on a plain linear layer over standardised features."""
    inputs = features - features.mean(0)
    inputs = inputs / features.std(0, correction=0).where(features.std(0) > 0, torch.ones(()))
    layer = nn.Linear(features.shape[1], 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(
        [{"params": [layer.weight]}, {"params": [layer.bias], "weight_decay": 0.0}],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    for _ in range(config.epochs):
        losses = functional.cross_entropy(
            layer(inputs), torch.from_numpy(targets).float(), reduction="none"
        )
        optimizer.zero_grad()
        (losses * weights / weights.mean()).mean().backward()
        optimizer.step()
    return layer, layer(inputs).log_softmax(1).detach()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_it_is_adamw_on_standardised_features(
    features: torch.Tensor, targets: np.ndarray, weight_decay: float
) -> None:
    config = ProbeConfig(epochs=40, batch_size=60, learning_rate=0.05, weight_decay=weight_decay)
    weights = np.linspace(0.1, 2.0, 60)
    fitted = fit_probe(features, targets, Xent(), config, seed=0, weights_N=weights)
    _, expected = in_torch(features, targets, config, torch.from_numpy(weights).float())
    assert fitted.num_steps == 40
    found = probe_logprobs(fitted.head, features)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-4)


def test_a_feature_that_never_varies_has_no_say(
    features: torch.Tensor, targets: np.ndarray
) -> None:
    head = fit_probe(features, targets, Xent(), ProbeConfig(epochs=5), seed=0).head
    assert not head.weight_CD[:, 3].any()
    assert head.weight_CD[:, [0, 1, 2, 4]].all()


def test_options_get_one_score_each() -> None:
    """Logistic regression on differences: the optimum of 3 wins in 4 is a difference of log 3."""
    good, bad = [1.0], [0.0]
    features = torch.tensor([[good, bad], [good, bad], [good, bad], [bad, good]])
    targets = np.eye(2)[[0, 0, 0, 0]]
    config = ProbeConfig(epochs=3000, learning_rate=0.01, normalize=False, batch_size=4)
    head = fit_probe(features, targets, Xent(), config, seed=0).head
    assert head.weight_CD.shape == (1, 1)
    assert head.options == 2
    assert float(head.weight_CD) == pytest.approx(np.log(3), abs=0.02)
    found = np.exp(probe_logprobs(head, features))
    np.testing.assert_allclose(found[0], [0.75, 0.25], atol=0.01)
    np.testing.assert_allclose(found[3], [0.25, 0.75], atol=0.01)


def test_rows_of_weight_nought_do_not_count(features: torch.Tensor, targets: np.ndarray) -> None:
    config = ProbeConfig(epochs=20, batch_size=60, learning_rate=0.05, normalize=False)
    weights = np.r_[np.ones(30), np.zeros(30)]
    spoiled = np.concatenate([targets[:30], 1 - targets[30:]])
    heads = [
        fit_probe(features, each, Xent(), config, seed=0, weights_N=weights).head
        for each in (targets, spoiled)
    ]
    torch.testing.assert_close(heads[0].weight_CD, heads[1].weight_CD)


@pytest.mark.parametrize(
    "loss", [Confidence(max_weight=0.5), Xent(hard=True)], ids=["conf", "hard"]
)
def test_seed_orders_the_rows(features: torch.Tensor, targets: np.ndarray, loss: Loss) -> None:
    config = ProbeConfig(epochs=3, batch_size=16, learning_rate=0.05)
    one, same, other = (
        fit_probe(features, targets, loss, config, seed=seed).head.weight_CD for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_checkpoints_are_evenly_spread_and_end_with_the_result(
    features: torch.Tensor, targets: np.ndarray
) -> None:
    seen: list[tuple[int, int, Head]] = []
    config = ProbeConfig(epochs=10, batch_size=16, num_checkpoints=4)
    fitted = fit_probe(
        features,
        targets,
        Xent(),
        config,
        seed=0,
        on_checkpoint=lambda step, num_steps, head: seen.append((step, num_steps, head)),
    )
    assert [(step, num_steps) for step, num_steps, _ in seen] == [
        (10, 40),
        (20, 40),
        (30, 40),
        (40, 40),
    ]
    assert torch.equal(seen[-1][2].weight_CD, fitted.head.weight_CD)
    assert not torch.equal(seen[0][2].weight_CD, fitted.head.weight_CD)


def test_a_probe_that_diverges_fails_loudly(features: torch.Tensor) -> None:
    with pytest.raises(FloatingPointError, match="lower its `learning_rate`"):
        fit_probe(
            features, np.full((60, 2), np.inf), Xent(), ProbeConfig(epochs=1, batch_size=60), seed=0
        )
