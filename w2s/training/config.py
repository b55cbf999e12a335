"""How a classifier is finetuned: the hyperparameters that change its result, and nothing else.

Micro-batches, devices, precision and workers are in `StageContext`: they cut an update up, they do
not change it.
"""

import math
from typing import Literal

from pydantic import Field

from w2s.spec import Spec


class TrainConfig(Spec):
    """Optimizer (AdamW), schedule and length of a finetuning. Dropout is always off."""

    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of the backbone (per optimizer step)."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the head; None: the same as the backbone's."""
    head_init: Literal["random", "zero"] = "random"
    """Head at the start: N(0, 0.02) drawn from the seed, or zeros."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices; norms, biases and embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments, each in [0, 1)."""
    epochs: int = Field(default=2, ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(default=32, ge=1)
    """Examples an optimizer step, over all workers and micro-batches."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the optimizer steps in which the learning rate rises linearly to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up: down to 0, or not at all."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient of an update; None: no clipping."""
    max_length: int = Field(default=1024, ge=1)
    """Tokens of a row, special tokens included. A longer row loses tokens on the left: the head
    reads the end, where the answer is. The model's own limit applies too. No row is ever dropped,
    so that models with different tokenizers see the same rows."""

    def learning_rate_factor(self, step: int, num_steps: int) -> float:
        """Share of the peak learning rate at an optimizer step.

        Args:
            step: optimizer steps already taken, 0 to num_steps - 1.
            num_steps: optimizer steps of the whole training.

        Returns:
            Above 0, at most 1: never 0, so that no step is wasted.
        """
        warmup_steps = self.warmup_fraction * num_steps
        if step < warmup_steps:
            return min(1.0, (step + 1) / (warmup_steps + 1))
        remaining = (num_steps - step) / (num_steps - warmup_steps)
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return remaining
        return 0.5 * (1 - math.cos(math.pi * remaining))
