"""Training a linear probe on features that are in memory.

The head is tiny, so what counts is the overhead of a step: rows are gathered from one tensor, and
the loss sees a model whose "token ids" are row numbers.

N rows in all, B rows of an update, K options of a row, D width of a feature, C classes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses.base import Batch, Loss
from w2s.models.classifier import Head
from w2s.models.part import drawn
from w2s.training.config import ProbeConfig
from w2s.training.loop import ALONE, CURVE_POINTS, ProgressReport, checkpoint_steps, scaled_weights
from w2s.training.members import MemberWeights, Objective
from w2s.training.offsets import Plus, as_offsets

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Fitted(NamedTuple):
    """A trained probe."""

    num_steps: int
    """Optimizer steps."""
    head: Head
    """For features as they are: their standardisation is folded into it."""


def fit_probe(
    features: Tensor,
    targets_NC: NDArray[np.floating],
    loss: Loss,
    config: ProbeConfig,
    *,
    seed: int,
    weights_N: NDArray[np.floating] | None = None,
    members: MemberWeights | None = None,
    offsets_NC: NDArray[np.floating] | None = None,
    on_progress: ProgressReport = lambda step, total, metrics: None,
    on_checkpoint: Callable[[int, int, Head], None] = lambda step, num_steps, head: None,
) -> Fitted:
    """Train a linear head from zero by Adam at a constant learning rate.

    Args:
        features: [N, D], or [N, K, D] for rows of K options, which get a one-logit head.
        targets_NC: class probabilities to learn from, in the order of the rows; [N, M, C] of M
            members.
        loss: training objective; its batches are whole updates.
        config: optimizer and epochs.
        seed: of the order of the rows.
        weights_N: sample weights, 0 or more; scaled to a mean of 1. None: all the same.
        members: weights of the members, moved where they are learned; None: one label a row.
        offsets_NC: logits that are added to the probe's while it learns; None: none.
        on_progress: called as (step, number of steps, metrics) about a hundred times.
        on_checkpoint: called as (steps taken, number of steps, head) when the config wants one.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    features = features.float()
    mean_D, deviation_D = torch.zeros(()), torch.ones(())
    if config.normalize:
        flat = features.flatten(0, -2)
        mean_D, deviation_D = flat.mean(0), flat.std(0, correction=0)
        # A feature that never varies stays at 0.
        deviation_D = torch.where(deviation_D > 0, deviation_D, torch.ones_like(deviation_D))
        features = (features - mean_D) / deviation_D
    if config.feature_share < 1:
        # The weight of a feature that is always 0 stays 0.
        features = features * drawn(features.shape[-1], config.feature_share, config.feature_seed)
    model = _Probe(features, num_classes=targets_NC.shape[-1])
    optimizer = _Adam(model.weight, config)
    targets = torch.as_tensor(np.asarray(targets_NC), dtype=torch.float32)
    weights = scaled_weights(weights_N, len(features))
    objective = Objective(loss, members)
    offsets = as_offsets(offsets_NC, loss)
    num_steps = math.ceil(len(features) / config.batch_size) * config.epochs
    interval = math.ceil(num_steps / CURVE_POINTS)
    checkpoints = checkpoint_steps(num_steps, config.num_checkpoints)
    generator = torch.Generator().manual_seed(seed)
    masks = torch.ones(config.batch_size, 1, dtype=torch.long)

    step = 0
    for epoch in range(config.epochs):
        for rows_B in torch.randperm(len(features), generator=generator).split(config.batch_size):
            # `index_select` takes a quarter of the time of indexing.
            targets_BC = targets.index_select(0, rows_B)
            part = Batch(rows_B.unsqueeze(1), masks[: len(rows_B)], targets_BC)
            shares_B = weights.index_select(0, rows_B).div_(len(rows_B))
            asked = model if offsets is None else Plus(model, offsets.index_select(0, rows_B))
            losses_B = objective(asked, part, rows_B, shares_B, step / num_steps).losses_B
            optimizer.step(model.gradient(losses_B, shares_B))
            objective.step(epoch, ALONE)
            step += 1
            if step % interval == 0 or step == num_steps:
                value = float(losses_B.detach() @ shares_B)
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss of the probe is {value} by step {step} of {num_steps}; lower "
                        "its `learning_rate`"
                    )
                learned = {name: float(number) for name, number in objective.metrics.items()}
                on_progress(step, num_steps, {"loss": value, **learned})
            if step in checkpoints:
                on_checkpoint(step, num_steps, model.head(mean_D, deviation_D))
    return Fitted(num_steps, model.head(mean_D, deviation_D))


def probe_logprobs(head: Head, features: Tensor) -> NDArray[np.float32]:
    """Class log-probabilities [N, C] of features as they are."""
    logits = functional.linear(features.float(), head.weight_CD, head.bias_C)
    return (logits.squeeze(-1) if head.options else logits).log_softmax(-1).numpy()


class _Probe(nn.Module):
    """A linear model of row numbers.

    Autograd sees the logits alone: the gradient of the weight is one product of theirs with the
    features, and a step costs a third of what it would as a graph.
    """

    def __init__(self, features: Tensor, num_classes: int) -> None:
        super().__init__()
        self.options = num_classes if features.ndim == 3 else 0
        # The last column stands for the bias.
        self._features = functional.pad(features, (0, 1), value=1.0)
        self.weight = torch.zeros(1 if self.options else num_classes, self._features.shape[-1])
        self._passes: list[tuple[Tensor, Tensor]] = []

    def forward(self, rows_B1: Tensor, mask_B1: Tensor) -> Tensor:
        """Logits [B, C] of rows."""
        features = self._features.index_select(0, rows_B1.squeeze(1))
        logits_BC = functional.linear(features, self.weight)
        if self.options:
            logits_BC = logits_BC.squeeze(-1)
        self._passes.append((features, logits_BC.requires_grad_(torch.is_grad_enabled())))
        return logits_BC

    def gradient(self, losses_B: Tensor, shares_B: Tensor) -> Tensor:
        """Gradient of the weighted sum of losses for the weight; forgets the forward passes."""
        passes = [each for each in self._passes if each[1].requires_grad]
        self._passes = []
        logits_gradients = torch.autograd.grad(losses_B, [each[1] for each in passes], shares_B)
        products = [
            outer.reshape(-1, len(self.weight)).T @ features.flatten(0, -2)
            for (features, _), outer in zip(passes, logits_gradients, strict=True)
        ]
        return products[0] if len(products) == 1 else torch.stack(products).sum(0)

    def head(self, mean_D: Tensor, deviation_D: Tensor) -> Head:
        """The head for features before their standardisation."""
        weight_CD = self.weight[:, :-1] / deviation_D
        bias_C = self.weight[:, -1] - (weight_CD * mean_D).sum(1)
        return Head(weight_CD, bias_C, self.options)


class _Adam:
    """`torch.optim.AdamW` of one matrix, without decay of its last column; three times as fast."""

    def __init__(self, weight: Tensor, config: ProbeConfig) -> None:
        self._weight = weight
        self._rate, self._decay = config.learning_rate, config.weight_decay
        self._mean = torch.zeros_like(weight)
        self._square = torch.zeros_like(weight)
        self._steps = 0

    def step(self, gradient: Tensor) -> None:
        """One update in place."""
        self._steps += 1
        if self._decay:
            self._weight[:, :-1].mul_(1 - self._rate * self._decay)
        self._mean.lerp_(gradient, 1 - BETAS[0])
        self._square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = self._square.sqrt().div_(math.sqrt(1 - BETAS[1] ** self._steps)).add_(EPSILON)
        self._weight.addcdiv_(self._mean, root, value=-self._rate / (1 - BETAS[0] ** self._steps))
