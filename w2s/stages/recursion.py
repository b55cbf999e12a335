"""An aligner and its students in turn: what the next aligner learns, and which generation is kept.

The aligner E_t labels `strong_train`, the student S_t learns it, and E_{t+1} learns of S_t's labels
what is confident and consistent, beside a small anchor of ground truth from `weak_train`. Sang et
al. (2024) announce this as their second phase and publish no algorithm: the loop here is ours.

N rows, C classes.
"""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, model_validator

from w2s.spec import Spec
from w2s.stages.base import Stage, StageContext
from w2s.stages.checkpoints import CHECKPOINTS_FILE, TRAINING_FILE
from w2s.stages.data import LABELS_FILE, GroundTruth, read_truth
from w2s.stages.labels import SMALLEST_PROBABILITY, probabilities_of, read_labels
from w2s.stages.mixing import budgeted
from w2s.stages.predictions import PREDICTIONS_FILE, write_predictions
from w2s.stages.selection import top_share_per_class

GENERATIONS_FILE = "generations.json"
KEPT_FILE = "kept.json"


class Anchor(Stage):
    """Ground truth of a few rows of `weak_train`; the others have weight 0."""

    truth: GroundTruth
    """Ground truth of `weak_train`."""
    num_rows: int = Field(ge=1)
    """Rows with weight 1; more than there are: all."""
    seed: int = Field(ge=0)
    """Which rows. A larger anchor at the same seed holds the rows of a smaller one."""

    @model_validator(mode="after")
    def _truth_is_the_supervisors(self) -> Self:
        if self.truth.split != "weak_train":
            raise ValueError("the anchor is of weak_train: no other truth is a supervisor's")
        return self

    @property
    def name(self) -> str:
        """Readable name."""
        return f"anchor-{self.num_rows}-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write `labels.parquet` with weights."""
        truth = read_truth(context.path(self.truth))
        chosen_N = budgeted(len(truth), self.num_rows, self.seed)
        truth.assign(weight=chosen_N.astype(np.float32)).to_parquet(
            context.output_dir / LABELS_FILE, index=False
        )


class AlignerLabels(Stage):
    """What the next aligner learns: a student's labels it can trust, and a few true ones.

    Labels of `strong_train` that are unsure, or that `other` contradicts, get weight 0.
    """

    student: SerializeAsAny[Stage]
    """Predictions of the student."""
    other: SerializeAsAny[Stage]
    """Predictions that a label has to be consistent with: the same most probable class."""
    anchor: Anchor
    """Truth of some rows of `weak_train`."""
    by: Literal["threshold", "top_share"]
    """Of the consistent labels, keep those above a confidence, or the most confident of each
    class."""
    threshold: float = Field(default=0.75, ge=0, le=1)
    """Lowest probability of the top class, for `by = "threshold"`."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the consistent rows of each class, for `by = "top_share"`."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"aligner-labels-of-{self.student.name}"

    def run(self, context: StageContext) -> None:
        """Write the labels, and `kept.json`: the share of the student's labels that is kept."""
        labels = read_labels(context.path(self.student))
        student_NC = labels.probabilities_NC
        other_NC = probabilities_of(context.path(self.other), labels.row_ids, "strong_train")
        kept_N = self._trusted(student_NC, other_NC)
        anchor = read_truth(context.path(self.anchor))
        true_NC = np.eye(student_NC.shape[1])[anchor["label"].to_numpy()]
        weights_N = labels.weights_N.copy()
        weights_N[labels.train] = kept_N
        write_predictions(
            context.output_dir,
            anchor["split"].tolist() + labels.index["split"].tolist(),
            anchor["row_id"].tolist() + labels.index["row_id"].tolist(),
            np.concatenate([np.log(np.maximum(true_NC, SMALLEST_PROBABILITY)), labels.logprobs_NC]),
            np.concatenate([anchor["weight"].to_numpy(np.float64), weights_N]),
        )
        (context.output_dir / KEPT_FILE).write_text(json.dumps(float(kept_N.mean())))

    def _trusted(
        self, student_NC: NDArray[np.floating], other_NC: NDArray[np.floating]
    ) -> NDArray[np.bool_]:
        """[N] whether a label is sure and not contradicted."""
        classes_N, confidence_N = student_NC.argmax(1), student_NC.max(1)
        same_N = classes_N == other_NC.argmax(1)
        if self.by == "threshold":
            return same_N & (confidence_N >= self.threshold)
        return top_share_per_class(confidence_N, classes_N, self.share, same_N)


class Generation(Spec):
    """One turn of the recursion."""

    number: int
    """0: the supervision that it began with."""
    agreement: float
    """Share of `val` on which the student says what its aligner says; no truth is in it."""
    kept_share: float | None
    """Share of the student's labels that the next aligner learns; None: there is no next one."""
    selected: bool
    """Whether its student is the one that is reported."""


class SelectedGeneration(Stage):
    """The student of the last generation before held-out agreement stalls.

    Agreement is that of a student with its aligner on `val`; no truth takes part.
    """

    aligners: tuple[SerializeAsAny[Stage], ...] = Field(min_length=2)
    """Predictions of the aligners, the first one first."""
    students: tuple[SerializeAsAny[Stage], ...]
    """Predictions of the student of each."""
    updates: tuple[AlignerLabels, ...]
    """What each aligner but the first learnt."""
    min_gain: float = Field(ge=0)
    """Rise of agreement, as a share of `val`, by which a generation must beat the one before."""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if not len(self.aligners) == len(self.students) == len(self.updates) + 1:
            raise ValueError("one student an aligner, and one update between two aligners")
        return self

    @property
    def name(self) -> str:
        """Readable name."""
        return f"selected-of-{len(self.students)}-generations"

    def run(self, context: StageContext) -> None:
        """Write the predictions of the selected student, and `generations.json` about all."""
        agreements = [
            held_out_agreement(context.path(aligner), context.path(student))
            for aligner, student in zip(self.aligners, self.students, strict=True)
        ]
        kept = [json.loads((context.path(each) / KEPT_FILE).read_text()) for each in self.updates]
        selected = last_before_stall(agreements, self.min_gain)
        generations = [
            Generation(
                number=number,
                agreement=agreement,
                kept_share=share,
                selected=number == selected,
            )
            for number, (agreement, share) in enumerate(zip(agreements, [*kept, None], strict=True))
        ]
        folder = context.path(self.students[selected])
        for name in (PREDICTIONS_FILE, TRAINING_FILE, CHECKPOINTS_FILE):
            if (folder / name).exists():
                shutil.copyfile(folder / name, context.output_dir / name)
        (context.output_dir / GENERATIONS_FILE).write_text(
            json.dumps([each.model_dump() for each in generations], indent=1), encoding="utf-8"
        )


def held_out_agreement(aligner: Path, student: Path) -> float:
    """Share of `val` on which two predictions have the same top class, joined by row id."""
    rows = pd.read_parquet(student / PREDICTIONS_FILE, columns=["split", "row_id"])
    row_ids = rows.loc[rows["split"] == "val", "row_id"].tolist()
    classes = [probabilities_of(each, row_ids, "val").argmax(1) for each in (aligner, student)]
    return float((classes[0] == classes[1]).mean())


def last_before_stall(agreements: "list[float]", min_gain: float) -> int:
    """Position of the last value before the first that does not exceed it by `min_gain`."""
    for number, (before, after) in enumerate(pairwise(agreements)):
        # A gain of exactly `min_gain` is enough; shares of rows are not exact in binary.
        if after - before < min_gain - 1e-9 or after <= before:
            return number
    return len(agreements) - 1


def read_generations(folder: Path) -> tuple[Generation, ...]:
    """What an artifact says about a recursion; empty where there was none."""
    file = folder / GENERATIONS_FILE
    if not file.exists():
        return ()
    found = json.loads(file.read_text(encoding="utf-8"))
    return tuple(Generation.model_validate(each) for each in found)
