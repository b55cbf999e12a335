"""A linear probe on cached features (Burns et al. 2023, appendix D.2): seconds, not minutes."""

from typing import ClassVar, Literal

from pydantic import Field, SerializeAsAny

from w2s.losses.base import Loss
from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.features import Features
from w2s.training.config import ProbeConfig


class Probe(Stage):
    """A linear classifier on features; it predicts `strong_train`, `val` and `test`.

    It leaves what a `Finetune` leaves, and its head, from which a `Finetune` can start.
    """

    lane: ClassVar[Lane] = "train"

    features: Features
    """What it reads."""
    labels: SerializeAsAny[Stage]
    """Ground truth of `train_split`, or predictions that cover it."""
    train_split: Literal["weak_train", "strong_train"]
    """The rows it learns from."""
    val_labels: SerializeAsAny[Stage] | None = None
    """Labels of `val` that checkpoints are compared on; None: none."""
    loss: OneOf[Loss]
    """Training objective."""
    train: ProbeConfig
    """Optimizer and epochs."""
    seed: int = Field(ge=0)
    """Seed of the order of the rows."""

    @property
    def name(self) -> str:
        """Readable name."""
        role = "truth" if self.labels.kind == "ground_truth" else "weak"
        return (
            f"probe-{self.features.name.removeprefix('features-')}-{role}-{self.loss.kind}"
            f"-s{self.seed}"
        )

    def run(self, context: StageContext) -> None:
        """Write `predictions.parquet`, `head.safetensors` and the checkpoints if asked."""
        raise NotImplementedError
