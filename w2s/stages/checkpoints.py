"""Checkpoints of one training run: what was predicted along the way, and which one would be kept.

Beside its predictions a trained model may leave `checkpoints.parquet` (step, epoch, split, row_id,
logprob_0 ...; rows of `val` and `test`) and `training.json` (numbers of the run). `compare` joins
them with ground truth for `Evaluate`, which writes what it returns as `checkpoints.json`: the curve
of overfitting, and three choices of one run (Burns et al. 2023, section 5.1.1).
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from w2s.spec import Spec
from w2s.stages.predictions import logprob_columns

CHECKPOINTS_FILE = "checkpoints.parquet"
TRAINING_FILE = "training.json"
COMPARED_FILE = "checkpoints.json"

Choice = Literal["last", "best_val", "oracle"]
CHOICES: tuple[Choice, ...] = ("last", "best_val", "oracle")


class Checkpoint(Spec):
    """One checkpoint, scored."""

    step: int
    """Updates done."""
    epoch: float
    """Epochs done."""
    test_accuracy: float
    """Accuracy on `test`, against ground truth."""
    val_agreement: float | None
    """Share of `val` on which it says what the weak supervisor says; None: no supervisor."""


class ComparedCheckpoints(Spec):
    """The checkpoints of a run and the steps that three rules choose."""

    curve: tuple[Checkpoint, ...]
    """Checkpoints by step."""
    steps: dict[Choice, int]
    """`last`; `best_val`: best on the labels of `val` that training had, if it had any; `oracle`:
    most accurate on `test`, the earliest of equals, a diagnostic that nothing may be chosen by."""

    def test_accuracy(self, choice: Choice) -> float | None:
        """Test accuracy of the checkpoint that a rule chooses; None: it chooses none."""
        by_step = {checkpoint.step: checkpoint.test_accuracy for checkpoint in self.curve}
        return by_step[self.steps[choice]] if choice in self.steps else None


def read_training(folder: Path) -> dict[str, Any]:
    """Numbers of a training run, such as `num_tokens` and `training_flops`; empty if it left none.

    The chosen steps are `last_step`, `best_val_step` (None: `val` had no labels) and
    `selected_step`, that of the predictions.
    """
    file = folder / TRAINING_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def read_compared(folder: Path) -> ComparedCheckpoints | None:
    """What an evaluation left about checkpoints; None if there were none."""
    file = folder / COMPARED_FILE
    if not file.exists():
        return None
    return ComparedCheckpoints.model_validate_json(file.read_text(encoding="utf-8"))


def compare(
    folder: Path, truth: pd.DataFrame, supervisor: pd.DataFrame | None
) -> ComparedCheckpoints | None:
    """Score every checkpoint of a run.

    Args:
        folder: artifact of the trained model.
        truth: split, row_id, label; rows of `test` are used.
        supervisor: split, row_id and `predicted` class; rows of `val` are used, if it has any.
            None: no supervisor.

    Returns:
        None if the run kept no checkpoints.

    Raises:
        ValueError: a checkpoint lacks a row.
    """
    if not (folder / CHECKPOINTS_FILE).exists():
        return None
    frame = pd.read_parquet(folder / CHECKPOINTS_FILE)
    frame["predicted"] = frame[logprob_columns(frame)].to_numpy().argmax(1)
    accuracy = _share(frame, truth.rename(columns={"label": "wanted"}), "test")
    agreement = None
    if supervisor is not None and "val" in set(supervisor["split"]):
        agreement = _share(frame, supervisor.rename(columns={"predicted": "wanted"}), "val")
    epochs = dict(zip(frame["step"], frame["epoch"], strict=True))
    curve = tuple(
        Checkpoint(
            step=int(step),
            epoch=float(epochs[step]),
            test_accuracy=accuracy[step],
            val_agreement=None if agreement is None else agreement[step],
        )
        for step in sorted(epochs)
    )
    training = read_training(folder)
    steps: dict[Choice, int] = {"last": curve[-1].step}
    if training.get("best_val_step") is not None:
        steps["best_val"] = training["best_val_step"]
    elif agreement is not None:
        steps["best_val"] = max(curve, key=lambda c: (c.val_agreement or 0.0, -c.step)).step
    steps["oracle"] = max(curve, key=lambda c: (c.test_accuracy, -c.step)).step
    return ComparedCheckpoints(curve=curve, steps=steps)


def _share(frame: pd.DataFrame, wanted: pd.DataFrame, split: str) -> dict[int, float]:
    """Share of the split's rows on which each step predicts what is wanted, by step."""
    wanted = wanted.loc[wanted["split"] == split, ["row_id", "wanted"]]
    mine = frame.loc[frame["split"] == split, ["step", "row_id", "predicted"]]
    joined = mine.merge(wanted, on="row_id", validate="many_to_one")
    steps = np.asarray(joined["step"])
    same = np.asarray(joined["predicted"] == joined["wanted"])
    shares: dict[int, float] = {}
    for step in np.unique(frame["step"]).tolist():
        mine = steps == step
        if mine.sum() != len(wanted):
            raise ValueError(
                f"the checkpoint of step {step} has predictions for {mine.sum()} of "
                f"{len(wanted)} rows of {split}"
            )
        shares[step] = float(same[mine].mean())
    return shares
