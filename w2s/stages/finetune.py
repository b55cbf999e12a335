"""Finetuning a classifier and letting it predict: supervisors, students and ceilings alike.

What differs between the three roles is only which stages are their fields: a supervisor and a
ceiling learn from `GroundTruth` of their own split, a student from predictions. No role is handed
labels of any other split, but those of `val` that its checkpoints are compared on: weak ones for a
student.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, field_validator

from w2s.losses.base import Loss
from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.data import Prompts
from w2s.stages.models import Model, load_options, model_key, model_location
from w2s.stages.predictions import Targets, read_targets, write_predictions
from w2s.stages.recorder import CheckpointRecorder, write_training
from w2s.stages.tokens import Tokens, TokenTable, read_tokens
from w2s.tasks.base import Task
from w2s.training.config import TrainConfig
from w2s.types import SPLITS, Split, TrainSplit, splits_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from w2s.models.classifier import Classifier, Head
    from w2s.training.members import MemberWeights

WEIGHTS_FOLDER = "weights"
ADAPTER_FOLDER = "adapter"
SCORED: tuple[Split, ...] = ("val", "test")
"""Splits that are predicted at every checkpoint."""
PREDICTED: tuple[Split, ...] = ("strong_train", *SCORED)
"""Splits that are predicted unless a stage says otherwise."""


def with_scored(splits: tuple[Split, ...]) -> tuple[Split, ...]:
    """The splits in the order of the task, `val` and `test` among them."""
    return tuple(split for split in SPLITS if split in (*splits, *SCORED))


class Finetune(Stage):
    """A classifier finetuned on one split; it predicts the splits of `predicts`.

    Weights are written only with `save_weights`: predictions are what later stages need.
    """

    lane: ClassVar[Lane] = "train"

    model: Model
    """Base model."""
    tokens: Tokens
    """What it reads, in learning and in predicting; debates are part of it."""
    labels: SerializeAsAny[Stage]
    """Ground truth of `train_split`, or predictions that cover it."""
    train_split: TrainSplit
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
    """Whether the finetuned weights are kept: merged, and as an adapter where it trained one."""
    predicts: tuple[Split, ...] = PREDICTED
    """Splits whose rows are predicted; `val` and `test` are always among them."""

    @field_validator("predicts")
    @classmethod
    def _scored_are_predicted(cls, splits: tuple[Split, ...]) -> tuple[Split, ...]:
        return with_scored(splits)

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
    def adapts_base(self) -> bool:
        """Whether what it learns is an adapter of the base model, and a head."""
        whole = self.train.head_layer == -1
        return self.train.mode == "lora" and whole and not isinstance(self.start, Finetune)

    @property
    def name(self) -> str:
        """Readable name: model, what the labels are, loss, seed."""
        model = self.model.name.removeprefix("pretrain-")
        role = "truth" if self.labels.kind == "ground_truth" else "weak"
        debated = "-debate" if self.transcripts else ""
        return f"finetune-{model}-{role}{debated}-{self.loss.kind}-s{self.seed}"

    def cost(self) -> float:
        """Estimated seconds on one core: updates, then forward passes over the predicted rows."""
        learned = self.tokens.num_rows(*splits_of(self.train_split))
        steps = self.train.epochs * max(1, learned // self.train.batch_size)
        flops = self.model.size() * self.tokens.row_tokens() * 2
        scored = self.tokens.num_rows(*SCORED) * max(1, self.train.num_checkpoints)
        others: list[Split] = [split for split in self.predicts if split not in SCORED]
        predicted = self.tokens.num_rows(*others) + scored
        step_s = 0.006 + 3 * flops * self.train.batch_size / 2e10
        return 0.3 + steps * step_s + predicted * flops / 4e10

    def run(self, context: StageContext) -> None:
        """Write predictions, checkpoints, `training.json`; `weights/` and `adapter/` if asked.

        Raises:
            UserError: the label words of an unembedding head do not fit the task or the model, or
                an adapter has no place in it.
        """
        from w2s.models.adapters import merge_adapters
        from w2s.models.classifier import save_adapted, save_classifier
        from w2s.models.source import count_parameters
        from w2s.models.tokenizer import load_tokenizer
        from w2s.training.acceleration import accelerate
        from w2s.training.flops import training_flops
        from w2s.training.loop import finetune, predict
        from w2s.training.parallel import Replicas
        from w2s.training.sharding import full_state, load_full_state, place

        replicas = context.replicas or Replicas()
        table = read_tokens(context.path(self.tokens))
        train = table.where(table.index["split"].isin(splits_of(self.train_split)).to_numpy())
        targets = self._targets(self.labels, train, context)
        kept = np.flatnonzero(targets.weights_N > 0)
        scored = table.where(table.index["split"].isin(SCORED).to_numpy())
        val_targets = None
        if self.val_labels is not None:
            val = scored.where((scored.index["split"] == "val").to_numpy())
            val_targets = self._targets(self.val_labels, val, context)

        options = table.rows.texts_per_row > 1
        classifier = self._classifier(options, context)
        place(classifier, replicas=replicas, device=context.device, precision=context.precision)

        def logprobs_of(part: TokenTable) -> NDArray[np.float32]:
            return predict(
                classifier,
                part.rows,
                replicas=replicas,
                device=context.device,
                precision=context.precision,
                micro_batch_size=context.micro_batch_size,
            )

        recorder = CheckpointRecorder(
            scored.index, val_targets, self.train.checkpoint, self.train.epochs
        )
        best = _Kept()

        def on_checkpoint(step: int, num_steps: int) -> None:
            metrics = recorder.add(step, num_steps, logprobs_of(scored))
            context.progress(step, num_steps, metrics)
            if recorder.keeps(step) and step < num_steps:
                best.weights = full_state(classifier)

        targets = targets.take(kept)
        members = member_weights(targets, context.device)
        learned = train.rows.take(kept)
        flops = training_flops(
            classifier, learned, self.train, seed=self.seed, device=context.device
        )
        accelerate(classifier.backbone, context.acceleration)
        curve = finetune(
            classifier,
            learned,
            targets.learned_NC,
            self.loss,
            self.train,
            seed=self.seed,
            weights_N=targets.weights_N,
            members=members,
            offsets_NC=targets.offsets_NC,
            replicas=replicas,
            device=context.device,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
            micro_batch_tokens=context.acceleration.micro_batch_tokens,
            on_progress=context.progress,
            on_checkpoint=on_checkpoint,
            on_shrink=context.shrink,
            checkpoints=context.checkpoints,
            beside={"recorder": recorder, "best": best},
        )
        num_steps = int(curve[-1]["step"])
        selected = recorder.selected_step(num_steps)
        if selected < num_steps:
            load_full_state(classifier, best.weights)
        others = [split for split in self.predicts if split not in SCORED]
        labelled = table.where(table.index["split"].isin(others).to_numpy())
        scored_logprobs_NC = recorder.logprobs_at(selected)
        if scored_logprobs_NC is None:
            scored_logprobs_NC = logprobs_of(scored)
        logprobs_NC = np.concatenate([logprobs_of(labelled), scored_logprobs_NC])
        kept_weights = full_state(classifier) if replicas.sharded and self.save_weights else {}
        if replicas.rank == 0:
            if replicas.sharded:
                # In one piece; what was not trained, or is not kept, is as in the base model.
                classifier = self._classifier(options, context)
                classifier.load_state_dict(kept_weights, strict=False, assign=True)
            num_trainable = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
            if self.save_weights and self.adapts_base:
                save_adapted(classifier, context.output_dir / ADAPTER_FOLDER)
            merge_adapters(classifier.backbone)
            counts = count_parameters(classifier)
            index = pd.concat([labelled.index, scored.index])
            write_predictions(
                context.output_dir, index["split"].tolist(), index["row_id"].tolist(), logprobs_NC
            )
            recorder.write(context.output_dir)
            write_training(
                context.output_dir,
                recorder,
                num_steps=num_steps,
                num_parameters=counts.total,
                num_non_embedding=counts.non_embedding,
                num_trainable=num_trainable,
                num_tokens=int(learned.lengths.sum()) * self.train.epochs,
                training_flops=flops,
                member_weights=None if members is None else members.learned,
            )
            if self.save_weights:
                save_classifier(classifier, context.output_dir / WEIGHTS_FOLDER)
                tokenizer = load_tokenizer(
                    model_location(self.model, context), **load_options(self.model)
                )
                tokenizer.save_pretrained(context.output_dir / WEIGHTS_FOLDER)

    def _targets(self, labels: Stage, part: TokenTable, context: StageContext) -> Targets:
        splits, row_ids = part.index["split"].tolist(), part.index["row_id"].tolist()
        return read_targets(context.path(labels), splits, row_ids, self.task.num_classes)

    def _classifier(self, options: bool, context: StageContext) -> "Classifier":
        """The classifier before its first update."""
        from w2s.models.adapters import add_adapters
        from w2s.models.classifier import (
            Classifier,
            copy_backbone,
            load_backbone,
            read_head,
        )
        from w2s.models.part import cut_after, narrow_head

        adapted = self.train.mode == "lora"
        sharded = context.replicas is not None and context.replicas.sharded
        # A model that is shared out goes to its devices block by block, each of them a part.
        device = "cpu" if sharded else context.device
        start = None if self.start is None else context.path(self.start)
        if start is not None and (start / WEIGHTS_FOLDER).exists():
            trusted = load_options(self.model)["trust_remote_code"]
            backbone = load_backbone(
                start / WEIGHTS_FOLDER, device=device, trust_remote_code=trusted
            )
            head = read_head(start / WEIGHTS_FOLDER, device)
        else:
            base = base_backbone(self.model, context, device)
            head = self._head(base, options, context) if start is None else read_head(start, device)
            backbone = copy_backbone(base, share=adapted or sharded)
        if self.train.head_layer != -1:
            cut_after(backbone, self.train.head_layer)
        if adapted:
            lora = self.train.lora
            add_adapters(
                backbone,
                rank=lora.rank,
                alpha=lora.alpha,
                target_modules=lora.target_modules,
                seed=self.seed,
            )
        classifier = Classifier(backbone, head)
        if self.train.head_share < 1:
            narrow_head(classifier, self.train.head_share, self.train.head_seed)
        return classifier

    def _head(self, base: "PreTrainedModel", options: bool, context: StageContext) -> "Head":
        """A head that has seen no label."""
        from w2s.models.classifier import Head, fresh_head
        from w2s.models.unembedding import unembedding_rows

        num_classes = self.task.num_classes
        if self.train.head_init != "unembedding":
            return fresh_head(
                base,
                num_classes,
                head_init=self.train.head_init,
                seed=self.seed,
                options=options,
            )
        self.train.check_classes(num_classes, options=options)
        words = self.train.label_words
        rows_WD = unembedding_rows(
            base,
            model_location(self.model, context),
            words[-1:] if options else words,
            **load_options(self.model),
        )
        return Head(rows_WD.to(base.device), options=num_classes if options else 0)


def member_weights(targets: Targets, device: str) -> "MemberWeights | None":
    """The weights of the members that some targets are of; None: they are one label a row."""
    from w2s.training.members import MemberWeights

    if targets.members is None:
        return None
    return MemberWeights(targets.members.weighting, targets.members.weights_NM, device)


def base_backbone(
    model: Model, context: StageContext, device: str | None = None
) -> "PreTrainedModel":
    """The bare backbone, from the worker's warm objects if it is there; nothing may train it.

    Args:
        model: of the ladder.
        context: of the stage.
        device: where its weights are; None: where the stage computes.
    """
    from w2s.models.classifier import load_backbone

    device = device or context.device
    key = f"{model_key(model)} on {device}"
    if key not in context.warm:
        location = model_location(model, context)
        context.warm[key] = load_backbone(location, device=device, **load_options(model))
    return context.warm[key]


@dataclass(slots=True)
class _Kept:
    """The trained weights of the checkpoint that agrees best so far."""

    weights: "dict[str, Tensor]" = field(default_factory=dict)
    """By name, on the CPU; empty before the first checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = dict(state["weights"])
