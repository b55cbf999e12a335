"""A linear probe on cached features (Burns et al. 2023, appendix D.2): seconds, not minutes."""

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, field_validator

from w2s.losses.base import Loss
from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.features import Features, FeatureTable, read_features
from w2s.stages.finetune import PREDICTED, SCORED, member_weights, with_scored
from w2s.stages.predictions import Targets, read_targets, write_predictions
from w2s.stages.recorder import CheckpointRecorder, write_training
from w2s.training.config import ProbeConfig
from w2s.types import Split, TrainSplit, splits_of


class Probe(Stage):
    """A linear classifier on features; it predicts the splits of `predicts`.

    It leaves what a `Finetune` leaves, and its head, from which a `Finetune` can start.
    """

    lane: ClassVar[Lane] = "train"

    features: Features
    """What it reads."""
    labels: SerializeAsAny[Stage]
    """Ground truth of `train_split`, or predictions that cover it."""
    train_split: TrainSplit
    """The rows it learns from."""
    val_labels: SerializeAsAny[Stage] | None = None
    """Labels of `val` that checkpoints are compared on; None: none."""
    loss: OneOf[Loss]
    """Training objective."""
    train: ProbeConfig
    """Optimizer and epochs."""
    seed: int = Field(ge=0)
    """Seed of the order of the rows."""
    predicts: tuple[Split, ...] = PREDICTED
    """Splits whose rows are predicted; `val` and `test` are always among them."""

    @field_validator("predicts")
    @classmethod
    def _scored_are_predicted(cls, splits: tuple[Split, ...]) -> tuple[Split, ...]:
        return with_scored(splits)

    @property
    def name(self) -> str:
        """Readable name."""
        role = "truth" if self.labels.kind == "ground_truth" else "weak"
        return (
            f"probe-{self.features.name.removeprefix('features-')}-{role}-{self.loss.kind}"
            f"-s{self.seed}"
        )

    def cost(self) -> float:
        """Estimated seconds on one core: short optimizer steps."""
        learned = self.features.tokens.num_rows(*splits_of(self.train_split))
        return 0.1 + 1.5e-4 * self.train.epochs * math.ceil(learned / self.train.batch_size)

    def run(self, context: StageContext) -> None:
        """Write predictions, `head.safetensors`, checkpoints and `training.json`."""
        from w2s.models.classifier import Head, write_head
        from w2s.training.probing import fit_probe, probe_logprobs

        if context.replicas is not None and context.replicas.rank:
            return  # One process is enough.
        table = _features(self.features, context)
        index, features = table.index, table.features
        split_of = index["split"].to_numpy()
        task = self.features.tokens.prompts.task

        def targets_of(labels: Stage, rows: NDArray[np.int64]) -> Targets:
            row_ids = index["row_id"].iloc[rows].tolist()
            splits = split_of[rows].tolist()
            return read_targets(context.path(labels), splits, row_ids, task.num_classes)

        learned = np.flatnonzero(np.isin(split_of, splits_of(self.train_split)))
        targets = targets_of(self.labels, learned)
        kept = targets.weights_N > 0
        targets = targets.take(kept)
        members = member_weights(targets, "cpu")
        scored_N = np.isin(split_of, SCORED)
        scored = features[np.flatnonzero(scored_N)]
        recorder = CheckpointRecorder(
            index.loc[scored_N],
            None
            if self.val_labels is None
            else targets_of(self.val_labels, np.flatnonzero(split_of == "val")),
            self.train.checkpoint,
            self.train.epochs,
        )
        best: list[Head] = []

        def on_checkpoint(step: int, num_steps: int, head: Head) -> None:
            metrics = recorder.add(step, num_steps, probe_logprobs(head, scored))
            context.progress(step, num_steps, metrics)
            if recorder.keeps(step):
                best[:] = [head]

        num_steps, head = fit_probe(
            features[learned[kept]],
            targets.learned_NC,
            self.loss,
            self.train,
            seed=self.seed,
            weights_N=targets.weights_N,
            members=members,
            offsets_NC=targets.offsets_NC,
            on_progress=context.progress,
            on_checkpoint=on_checkpoint,
        )
        if best:
            (head,) = best
        predicted = np.isin(split_of, self.predicts)
        write_predictions(
            context.output_dir,
            split_of[predicted].tolist(),
            index["row_id"][predicted].tolist(),
            probe_logprobs(head, features[np.flatnonzero(predicted)]),
        )
        write_head(head, context.output_dir)
        recorder.write(context.output_dir)
        size = head.num_parameters
        write_training(
            context.output_dir,
            recorder,
            num_steps=num_steps,
            num_parameters=size,
            num_non_embedding=size,
            num_trainable=size,
            num_tokens=0,
            training_flops=6.0 * head.weight_CD.numel() * int(kept.sum()) * self.train.epochs,
            member_weights=None if members is None else members.learned,
        )


def _features(stage: Features, context: StageContext) -> FeatureTable:
    """Features, from the worker's warm objects if they are there."""
    if stage.key not in context.warm:
        context.warm[stage.key] = read_features(context.path(stage))
    return context.warm[stage.key]
