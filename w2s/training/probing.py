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
from w2s.training.config import ProbeConfig
from w2s.training.loop import CURVE_POINTS, ProgressReport, checkpoint_steps, scaled_weights


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
    on_progress: ProgressReport = lambda step, total, metrics: None,
    on_checkpoint: Callable[[int, int, Head], None] = lambda step, num_steps, head: None,
) -> Fitted:
    """Train a linear head from zero by Adam at a constant learning rate.

    Args:
        features: [N, D], or [N, K, D] for rows of K options, which get a one-logit head.
        targets_NC: class probabilities to learn from, in the order of the rows.
        loss: training objective; its batches are whole updates.
        config: optimizer and epochs.
        seed: of the order of the rows.
        weights_N: sample weights, 0 or more; scaled to a mean of 1. None: all the same.
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
    num_classes = targets_NC.shape[1]
    model = _Probe(features, num_classes)
    targets = torch.as_tensor(np.asarray(targets_NC), dtype=torch.float32)
    weights = scaled_weights(weights_N, len(features))
    optimizer = torch.optim.AdamW(
        [{"params": [model.weight_CD]}, {"params": [model.bias_C], "weight_decay": 0.0}],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    steps_an_epoch = math.ceil(len(features) / config.batch_size)
    num_steps = steps_an_epoch * config.epochs
    interval = math.ceil(num_steps / CURVE_POINTS)
    checkpoints = checkpoint_steps(num_steps, config.num_checkpoints)
    generator = torch.Generator().manual_seed(seed)
    every_mask = torch.ones(config.batch_size, 1, dtype=torch.long)

    step = 0
    for _ in range(config.epochs):
        for rows_B in torch.randperm(len(features), generator=generator).split(config.batch_size):
            part = Batch(rows_B.unsqueeze(1), every_mask[: len(rows_B)], targets[rows_B])
            output = loss(model, part, progress=step / num_steps)
            total = (output.losses_B * weights[rows_B]).mean()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            step += 1
            if step % interval == 0 or step == num_steps:
                value = float(total.detach())
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss of the probe is {value} by step {step} of {num_steps}; lower "
                        "its `learning_rate`"
                    )
                on_progress(step, num_steps, {"loss": value})
            if step in checkpoints:
                on_checkpoint(step, num_steps, model.head(mean_D, deviation_D))
    return Fitted(num_steps, model.head(mean_D, deviation_D))


def probe_logprobs(head: Head, features: Tensor) -> NDArray[np.float32]:
    """Class log-probabilities [N, C] of features as they are."""
    logits = functional.linear(features.float(), head.weight_CD, head.bias_C)
    return (logits.squeeze(-1) if head.options else logits).log_softmax(-1).numpy()


class _Probe(nn.Module):
    """A linear model of row numbers."""

    def __init__(self, features: Tensor, num_classes: int) -> None:
        super().__init__()
        self._features = features
        self.options = num_classes if features.ndim == 3 else 0
        num_logits = 1 if self.options else num_classes
        self.weight_CD = nn.Parameter(torch.zeros(num_logits, features.shape[-1]))
        self.bias_C = nn.Parameter(torch.zeros(num_logits))

    def forward(self, rows_B1: Tensor, mask_B1: Tensor) -> Tensor:
        """Logits [B, C] of rows."""
        features = self._features[rows_B1.squeeze(1)]
        logits = functional.linear(features, self.weight_CD, self.bias_C)
        return logits.squeeze(-1) if self.options else logits

    def head(self, mean_D: Tensor, deviation_D: Tensor) -> Head:
        """The head for features before their standardisation."""
        with torch.no_grad():
            weight_CD = self.weight_CD / deviation_D
            bias_C = self.bias_C - (weight_CD * mean_D).sum(1)
        return Head(weight_CD.clone(), bias_C.clone(), self.options)
