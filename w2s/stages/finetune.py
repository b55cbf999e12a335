"""Finetuning a classifier and letting it predict: supervisors, students and ceilings alike.

What differs between the three roles is only which stages are their fields: a supervisor and a
ceiling learn from `GroundTruth` of their own split, a student from predictions. No role is handed
labels of any other split, but those of `val` that its checkpoints are compared on: weak ones for a
student.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializeAsAny

from w2s.losses.base import Loss
from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.data import Prompts
from w2s.stages.models import Model, ModelStage, model_key, model_location
from w2s.stages.predictions import read_targets, write_predictions
from w2s.stages.tokens import Tokens, read_tokens
from w2s.tasks.base import Task, load, mean_tokens
from w2s.training.config import TrainConfig
from w2s.types import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS_FOLDER = "weights"
PREDICTED: tuple[Split, ...] = ("strong_train", "val", "test")


class Finetune(Stage):
    """A classifier finetuned on one split; it predicts `strong_train`, `val` and `test`.

    Weights are written only with `save_weights`: predictions are what later stages need.
    """

    lane: ClassVar[Lane] = "train"

    model: Model
    """Base model."""
    tokens: Tokens
    """What it reads, in learning and in predicting; debates are part of it."""
    labels: SerializeAsAny[Stage]
    """Ground truth of `train_split`, or predictions that cover it."""
    train_split: Literal["weak_train", "strong_train"]
    """The rows it learns from."""
    val_labels: SerializeAsAny[Stage] | None = None
    """Labels of `val` that checkpoints are compared on: ground truth or predictions; None: none."""
    start: SerializeAsAny[Stage] | None = None
    """Classifier to start from (a `Finetune` that keeps its weights, or a `Probe` of the base
    model); None: the base model with a fresh head."""
    loss: OneOf[Loss]
    """Training objective."""
    train: TrainConfig
    """Optimizer, schedule, epochs."""
    seed: int = Field(ge=0)
    """Seed of the head and of the order of the rows."""
    save_weights: bool = False
    """Whether the finetuned weights are kept."""

    @property
    def prompts(self) -> Prompts:
        """The rows it reads."""
        return self.tokens.prompts

    @property
    def transcripts(self) -> Stage | None:
        """The debates it reads."""
        return self.tokens.transcripts

    @property
    def task(self) -> Task:
        """The task the prompts come from."""
        return self.prompts.task

    @property
    def base_model(self) -> str:
        """Key of the base model."""
        return model_key(self.model)

    @property
    def name(self) -> str:
        """Readable name: model, what the labels are, loss, seed."""
        model = self.model.name.removeprefix("pretrain-")
        role = "truth" if self.labels.kind == "ground_truth" else "weak"
        debated = "-debate" if self.transcripts else ""
        return f"finetune-{model}-{role}{debated}-{self.loss.kind}-s{self.seed}"

    def cost(self) -> float:
        """Estimated seconds on one core: updates, then forward passes over the predicted rows."""
        rows = load(self.task).rows
        steps = self.train.epochs * max(1, len(rows[self.train_split]) // self.train.batch_size)
        tokens = mean_tokens(self.task)
        flops = self.model.size() * tokens * 2
        predicted = sum(len(rows[split]) for split in PREDICTED)
        step_s = 0.006 + 3 * flops * self.train.batch_size / 2e10
        return 0.3 + steps * step_s + predicted * flops / 4e10

    def run(self, context: StageContext) -> None:
        """Write `predictions.parquet`, and `weights/` if asked."""
        from w2s.models.classifier import Classifier, save_classifier
        from w2s.training.loop import finetune, predict
        from w2s.training.parallel import Replicas

        replicas = context.replicas or Replicas()
        base = base_backbone(self.model, context)
        table = read_tokens(context.path(self.tokens))
        classifier = Classifier.fresh(
            base,
            self.task.num_classes,
            head_init=self.train.head_init,
            seed=self.seed,
            options=table.rows.texts_per_row > 1,
        )
        train = table.where((table.index["split"] == self.train_split).to_numpy())
        targets = read_targets(
            context.path(self.labels),
            self.train_split,
            train.index["row_id"].tolist(),
            self.task.num_classes,
        )
        kept = np.flatnonzero(targets.weights_N > 0)
        finetune(
            classifier,
            train.rows.take(kept),
            targets.probabilities_NC[kept],
            self.loss,
            self.train,
            seed=self.seed,
            weights_N=targets.weights_N[kept],
            replicas=replicas,
            device=context.device,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
            on_progress=context.progress,
        )
        rest = table.where(table.index["split"].isin(PREDICTED).to_numpy())
        logprobs_NC = predict(
            classifier,
            rest.rows,
            replicas=replicas,
            device=context.device,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
        )
        if replicas.rank == 0:
            write_predictions(
                context.output_dir,
                rest.index["split"].tolist(),
                rest.index["row_id"].tolist(),
                logprobs_NC,
            )
            if self.save_weights:
                save_classifier(classifier, context.output_dir / WEIGHTS_FOLDER)


def base_backbone(model: Model, context: StageContext) -> "PreTrainedModel":
    """The bare backbone, from the worker's warm objects if it is there."""
    from w2s.models.classifier import load_backbone

    key = model_key(model)
    if key not in context.warm:
        location = model_location(model, context)
        revision = None if isinstance(model, ModelStage) else model.revision
        context.warm[key] = load_backbone(location, revision=revision, device=context.device)
    return context.warm[key]
