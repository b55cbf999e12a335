"""Finetuning a classifier and letting it predict: supervisors, students and ceilings alike.

What differs between the three roles is only which stages are their fields: a supervisor and a ceiling learn from `GroundTruth` of
their own split, a student from predictions. No role is handed labels of any other split.
"""

from typing import ClassVar, Literal

from pydantic import Field, SerializeAsAny

from w2s.losses.base import Loss
from w2s.spec import one_of
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.data import Prompts
from w2s.stages.pretrain import Model, Pretrain, model_key, model_location
from w2s.tasks.base import Task
from w2s.training.config import TrainConfig


class Finetune(Stage):
    """A classifier finetuned on labels of one split; leaves its predictions for the other three.

    Weights are written only with `save_weights`: predictions are what later stages need.
    """

    lane: ClassVar[Lane] = "train"

    model: Model
    """Base model."""
    prompts: Prompts
    """What it reads."""
    labels: SerializeAsAny[Stage]
    """Ground truth of `train_split`, or predictions that cover it."""
    train_split: Literal["weak_train", "strong_train"]
    """The rows it learns from."""
    transcripts: SerializeAsAny[Stage] | None = None
    """Debates put into the input, for learning and for predicting; None: prompts alone."""
    loss: one_of(Loss)  # pyright: ignore[reportInvalidTypeForm]
    """Training objective."""
    train: TrainConfig
    """Optimizer, schedule, epochs."""
    seed: int = Field(ge=0)
    """Seed of the head and of the order of the rows."""
    save_weights: bool = False
    """Whether the finetuned weights are kept."""

    @property
    def task(self) -> Task:
        """The task the prompts come from."""
        return self.prompts.task

    @property
    def base_model(self) -> str:
        """Key of the base model."""
        return model_key(self.model)
