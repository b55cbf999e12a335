"""How models are trained: the hyperparameters that change a result, and nothing else.

`TrainConfig` is the recipe of a role (supervisor, student, ceiling): its `mode` says whether the
whole model is finetuned, low-rank adapters (`lora`), or a linear probe on cached features
(`probe`), or both in turn. `GenerativeConfig` is that of a language model.

Micro-batches, devices, precision and workers are in `StageContext`: they cut an update up, they do
not change it.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from w2s.errors import UserError
from w2s.spec import Spec

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate_factor(
    schedule: Schedule, warmup_fraction: float, step: int, num_steps: int
) -> float:
    """Share of the peak learning rate at an optimizer step.

    Args:
        schedule: how it goes on after the warm-up: down to 0, or not at all.
        warmup_fraction: share of the steps in which it rises linearly.
        step: optimizer steps already taken, 0 to num_steps - 1.
        num_steps: optimizer steps of the whole training.

    Returns:
        Above 0, at most 1: never 0, so that no step is wasted.
    """
    warmup_steps = warmup_fraction * num_steps
    if step < warmup_steps:
        return min(1.0, (step + 1) / (warmup_steps + 1))
    remaining = (num_steps - step) / (num_steps - warmup_steps)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return remaining
    return 0.5 * (1 - math.cos(math.pi * remaining))


def _check_checkpoints(num_checkpoints: int, checkpoint: str) -> None:
    if checkpoint == "best_val" and num_checkpoints == 0:
        raise ValueError('checkpoint = "best_val" chooses among checkpoints: set num_checkpoints')


class LoraConfig(Spec):
    """Low-rank adapters on every linear map of the blocks (Hu et al. 2021)."""

    rank: int = Field(default=8, ge=1)
    """Rank of the update of a matrix."""
    alpha: float = Field(default=16.0, gt=0)
    """The update is scaled by alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """Names of the modules to adapt, such as `q_proj`; empty: all linear maps of the blocks."""


class ProbeConfig(Spec):
    """A linear probe on frozen features; defaults of Burns et al. (2023, appendix D.2)."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of Adam, constant."""
    epochs: int = Field(default=200, ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(default=128, ge=1)
    """Examples an optimizer step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of the head."""
    layer: int = Field(default=-1, ge=-1)
    """Layer whose hidden state is read: k the output of the k-th block, 0 the embeddings, -1 the
    last one as a head would read it (normed)."""
    feature_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the features that it reads, at least one; which ones is drawn."""
    feature_seed: int = Field(default=0, ge=0)
    """Seed of that draw."""
    normalize: bool = True
    """Whether features are standardised by mean and deviation over the training rows."""
    num_checkpoints: int = Field(default=0, ge=0)
    """Points at which `val` and `test` are predicted, evenly over the training; 0: none."""
    checkpoint: Literal["last", "best_val"] = "last"
    """Which one the predictions are of: the last, or the one that agrees best with the labels of
    `val` (weak ones for a student); ties go to the earlier one."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_checkpoints(self.num_checkpoints, self.checkpoint)
        return self


class GenerativeConfig(Spec):
    """Language-model finetuning on a task's texts."""

    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of AdamW."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the texts."""
    batch_size: int = Field(default=32, ge=1)
    """Texts an optimizer step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of matrices."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; it then falls along a cosine."""


class TrainConfig(Spec):
    """Mode, optimizer (AdamW), schedule and length of a training. Dropout is always off."""

    mode: Literal["full", "lora", "probe", "probe_then_finetune"] = "full"
    """What is trained: all weights, low-rank adapters and the head, a linear probe on cached
    features, or all weights from a probe's head on (LP-FT, Kumar et al. 2022)."""
    lora: LoraConfig = LoraConfig()
    """Adapters; only for `mode = "lora"`."""
    probe: ProbeConfig = ProbeConfig()
    """The probe; only for the two modes with one."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of the backbone (per optimizer step)."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the head; None: the same as the backbone's."""
    head_init: Literal["random", "zero", "unembedding"] = "random"
    """Head at the start: N(0, 0.02) drawn from the seed, zeros, or the rows of the unembedding of
    the label words (Burns et al. 2023, appendix A)."""
    label_words: tuple[str, ...] = Field(default=("0", "1"), min_length=1)
    """Words of the classes for `head_init = "unembedding"`; the head of pairs takes the last."""
    head_layer: int = Field(default=-1, ge=-1)
    """Block after which the model is cut off: the head reads its output through the model's last
    norm; -1: the whole model."""
    head_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the hidden dimensions that the head reads, at least one; which ones is drawn."""
    head_seed: int = Field(default=0, ge=0)
    """Seed of that draw."""
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
    schedule: Schedule = "cosine"
    """How the learning rate goes on after the warm-up: down to 0, or not at all."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient of an update; None: no clipping."""
    num_checkpoints: int = Field(default=0, ge=0)
    """Points at which `val` and `test` are predicted, evenly over the training; 0: none. The
    report then shows the overfitting curve, and the student of the last step, of the best one by
    weak labels of `val`, and of the best one by ground truth (an oracle), from one run."""
    checkpoint: Literal["last", "best_val"] = "last"
    """Which one the predictions are of: the last, or the one that agrees best with the labels of
    `val` (weak ones for a student); ties go to the earlier one."""
    max_length: int = Field(default=1024, ge=1)
    """Tokens of a row, special tokens included. A longer row loses tokens on the left: the head
    reads the end, where the answer is. The model's own limit applies too. No row is ever dropped,
    so that models with different tokenizers see the same rows."""

    def check_classes(self, num_classes: int, *, options: bool = False) -> None:
        """Refuse a task for which the head has not one label word a class.

        Args:
            num_classes: of the task.
            options: whether rows are choices among texts, whose one logit takes the last word.

        Raises:
            UserError: there are more or fewer words than classes.
        """
        if options or self.head_init != "unembedding":
            return
        if len(self.label_words) != num_classes:
            raise UserError(
                f'head_init = "unembedding" needs a word for each of the {num_classes} classes of '
                f"the task; label_words has {len(self.label_words)}: "
                f"{', '.join(map(repr, self.label_words))}"
            )

    def reading(self, *, layer: int = -1, share: float = 1.0, seed: int = 0) -> "TrainConfig":
        """The same recipe with a head, or a probe, that reads another part of the model.

        Args:
            layer: number of a block; -1: the last.
            share: of the dimensions there.
            seed: of the draw of these.

        Raises:
            UserError: the mode is both a probe and a finetuning.
        """
        if self.mode == "probe_then_finetune":
            raise UserError(
                'a head that reads a part of the model is trained with mode = "full", "lora" or '
                f'"probe"; found {self.mode!r}'
            )
        if self.mode != "probe":
            changed = {"head_layer": layer, "head_share": share, "head_seed": seed}
            return TrainConfig.model_validate(self.model_dump() | changed)
        probe = {"layer": layer, "feature_share": share, "feature_seed": seed}
        return TrainConfig.model_validate(
            self.model_dump() | {"probe": self.probe.model_dump() | probe}
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_checkpoints(self.num_checkpoints, self.checkpoint)
        if self.head_layer == 0:
            raise ValueError("head_layer is the number of a block, from 1, or -1 for the last")
        if self.mode == "probe_then_finetune" and self.probe.layer != -1:
            raise ValueError(
                f'mode = "probe_then_finetune" goes on from a probe of the last layer: set '
                f"probe.layer = -1; found {self.probe.layer}"
            )
        return self
