"""Finetuning a classifier and letting it predict: supervisors, students and ceilings alike.

What differs between the three roles is only which stages are their fields: a supervisor and a
ceiling learn from `GroundTruth` of their own split, a student from predictions. No role is handed
labels of any other split.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import pandas as pd
from pydantic import Field, SerializeAsAny

from w2s.losses.base import Loss
from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.data import Prompts, load, mean_tokens, read_prompts
from w2s.stages.predictions import read_targets, write_predictions
from w2s.stages.pretrain import Model, Pretrain, model_key, model_location
from w2s.stages.transcripts import read_transcripts
from w2s.tasks.base import Task
from w2s.training.config import TrainConfig
from w2s.types import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS_FOLDER = "weights"
PREDICTED: tuple[Split, ...] = ("strong_train", "val", "test")


class Finetune(Stage):
    """A classifier finetuned on one split; it predicts `strong_train`, `val` and `test`.

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
    loss: OneOf[Loss]
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
        from w2s.training.batching import tokenize
        from w2s.training.loop import finetune, predict
        from w2s.training.parallel import Replicas

        replicas = context.replicas or Replicas()
        base, tokenizer = _base_model(self.model, context)
        classifier = Classifier.fresh(
            base, self.task.num_classes, head_init=self.train.head_init, seed=self.seed
        )
        frame = self._inputs(context)
        limit = min(self.train.max_length, classifier.max_length or self.train.max_length)

        train = frame[frame["split"] == self.train_split]
        finetune(
            classifier,
            tokenize(tokenizer, train["input"].tolist(), limit),
            read_targets(
                context.path(self.labels),
                self.train_split,
                train["row_id"].tolist(),
                self.task.num_classes,
            ),
            self.loss,
            self.train,
            seed=self.seed,
            replicas=replicas,
            device=context.device,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
            on_progress=context.progress,
        )
        rest = frame[frame["split"].isin(PREDICTED)]
        logprobs_NC = predict(
            classifier,
            tokenize(tokenizer, rest["input"].tolist(), limit),
            replicas=replicas,
            device=context.device,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
        )
        if replicas.rank == 0:
            write_predictions(
                context.output_dir, rest["split"].tolist(), rest["row_id"].tolist(), logprobs_NC
            )
            if self.save_weights:
                save_classifier(classifier, context.output_dir / WEIGHTS_FOLDER)
                tokenizer.save_pretrained(context.output_dir / WEIGHTS_FOLDER)

    def _inputs(self, context: StageContext) -> pd.DataFrame:
        """What the model reads: split, row_id, input; transcripts are joined by (split, row_id)."""
        frame = read_prompts(context.path(self.prompts))
        if self.transcripts is None:
            return frame.assign(input=frame["prompt"])
        debates = read_transcripts(context.path(self.transcripts))[["split", "row_id", "text"]]
        joined = frame.merge(debates, on=["split", "row_id"], how="left", validate="one_to_one")
        num_missing = int(joined["text"].isna().to_numpy().sum())
        if num_missing:
            raise ValueError(f"{num_missing} rows have no transcript")
        inputs = [
            self.task.with_transcript(prompt, text)
            for prompt, text in zip(joined["prompt"], joined["text"], strict=True)
        ]
        return joined.assign(input=inputs)


def _base_model(
    model: Model, context: StageContext
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The bare backbone and its tokenizer, from the worker's warm objects if they are there."""
    from transformers import AutoTokenizer

    from w2s.models.classifier import load_backbone

    key = model_key(model)
    if key not in context.warm:
        location = model_location(model, context)
        revision = None if isinstance(model, Pretrain) else model.revision
        context.warm[key] = (
            load_backbone(location, revision=revision, device=context.device),
            AutoTokenizer.from_pretrained(str(location), revision=revision or "main"),
        )
    return context.warm[key]
