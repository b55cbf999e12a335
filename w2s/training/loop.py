"""Finetuning a classifier and letting it predict: the loop of every supervisor, student and ceiling.

`finetune` goes through the updates of `plan_updates`; `predict` through those of `plan_inference`. Both know nothing of Ray:
`Replicas` says which rows are this process's. An update may be cut into micro-batches and over replicas: each
part's graph is freed before the next is built, parts count by their share of the rows, and a loss that needs
the whole update gets its logits from a first pass without gradient. So 1 x 32, 4 x 8 and 2 workers x 16 train alike.

N rows of an update or of a data set, B rows of a part, C classes, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from w2s.losses.base import Batch, Loss
from w2s.models.classifier import Classifier
from w2s.training.batching import TokenRows, collate, plan_inference, plan_updates
from w2s.training.config import TrainConfig
from w2s.training.parallel import Replicas

Precision = Literal["fp32", "bf16"]
ProgressReport = Callable[[int, int, dict[str, float]], None]

CURVE_POINTS = 100
"""Points of a training curve at most; each is the mean over the steps since the one before."""
INFERENCE_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Tokens of an inference batch by device type. On CPU a batch should stay in the cache."""


def finetune(
    classifier: Classifier,
    rows: TokenRows,
    targets_NC: NDArray[np.floating],
    loss: Loss,
    config: TrainConfig,
    *,
    seed: int,
    replicas: Replicas = Replicas(),
    device: str = "cpu",
    precision: Precision = "fp32",
    micro_batch_size: int | None = None,
    on_progress: ProgressReport = lambda step, total, metrics: None,
) -> list[dict[str, float]]:
    """Train a classifier in place on class probabilities.

    Every replica calls this with the same arguments and its own copy of the same classifier.

    Args:
        classifier: moved to the device, trained in place.
        rows: N texts.
        targets_NC: class probabilities to learn from, in the order of the rows.
        loss: training objective.
        config: optimizer, schedule, epochs.
        seed: of the order of the rows.
        replicas: those that train this classifier together.
        device: of this replica.
        precision: of the forward pass; weights, gradients and losses are float32.
        micro_batch_size: rows a forward pass at most; None: all of this replica's share.
        on_progress: called as (step, number of steps, metrics) with each point of the curve.

    Returns:
        The curve: `step` (steps taken), `loss`, `learning_rate`, and the metrics of the loss, each the mean over the
        steps since the point before. Equal on every replica.

    Raises:
        ValueError: no rows, or targets of another shape.
        FloatingPointError: the loss became infinite or NaN.
    """
    raise NotImplementedError


def predict(
    classifier: Classifier,
    rows: TokenRows,
    *,
    replicas: Replicas = Replicas(),
    device: str = "cpu",
    precision: Precision = "fp32",
    micro_batch_size: int | None = None,
    on_progress: ProgressReport = lambda step, total, metrics: None,
) -> NDArray[np.float32]:
    """Class log-probabilities of each row.

    Args:
        classifier: moved to the device.
        rows: N texts.
        replicas: share the rows; every replica gets all results.
        device: of this replica.
        precision: of the forward pass.
        micro_batch_size: rows a forward pass at most; None: as many as a batch of `INFERENCE_TOKENS` holds.
        on_progress: called as (rows done, rows, {}) of this replica.

    Returns:
        [N, C] natural log-probabilities in the order of the rows.
    """
    raise NotImplementedError
