"""Joining predictions with ground truth: the only stage that does, the last of every chain."""

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import SerializeAsAny

from w2s import metrics
from w2s.stages import checkpoints
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth, Prompts, read_prompts, read_truth
from w2s.stages.predictions import logprob_columns, read_predictions
from w2s.stages.recursion import GENERATIONS_FILE

EVALUATION_FILE = "evaluation.json"
ROWS_FILE = "rows.parquet"


class Evaluate(Stage):
    """Scores of one model on `val`, `test` and, where truth is given, the rows it labelled."""

    version: ClassVar[int] = 2

    predictions: SerializeAsAny[Stage]
    """Stage whose predictions are scored."""
    truths: tuple[GroundTruth, ...]
    """Ground truth of the splits to score."""
    prompts: Prompts
    """For the group of each row."""
    supervisor: SerializeAsAny[Stage] | None = None
    """Predictions to measure agreement and misfit against; None: none."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"evaluate-{self.predictions.name}"

    def run(self, context: StageContext) -> None:
        """Write `evaluation.json` (metrics by split) and `rows.parquet` (one line a scored row).

        Where the model left checkpoints, `checkpoints.json` compares them; numbers of its training
        (`training.json`) and generations of a recursion are handed on.
        """
        frame = scored_rows(
            context.path(self.predictions),
            [context.path(truth) for truth in self.truths],
            context.path(self.prompts),
            context.path(self.supervisor) if self.supervisor else None,
        )
        frame.to_parquet(context.output_dir / ROWS_FILE, index=False)
        evaluation = {
            truth.split: _metrics(frame.loc[frame["split"] == truth.split]) for truth in self.truths
        }
        (context.output_dir / EVALUATION_FILE).write_text(json.dumps(evaluation, indent=1))
        for name in (checkpoints.TRAINING_FILE, GENERATIONS_FILE):
            if (context.path(self.predictions) / name).exists():
                shutil.copyfile(context.path(self.predictions) / name, context.output_dir / name)
        compared = checkpoints.compare(
            context.path(self.predictions),
            frame.loc[:, ["split", "row_id", "label"]],
            _predicted(context.path(self.supervisor)) if self.supervisor else None,
        )
        if compared is not None:
            (context.output_dir / checkpoints.COMPARED_FILE).write_text(
                compared.model_dump_json(indent=1), encoding="utf-8"
            )


def scored_rows(
    predictions: Path, truths: list[Path], prompts: Path, supervisor: Path | None
) -> pd.DataFrame:
    """Predictions joined with truth by (split, row_id), in the order of the prompts.

    Returns:
        split, row_id, group, label, predicted, correct, prob_0 ... prob_{C-1} and, with a
        supervisor, supervisor_prob_0 ... supervisor_prob_{C-1}.
    """
    frame = read_predictions(predictions)
    columns = logprob_columns(frame)
    probabilities = np.exp(frame[columns].to_numpy(np.float64))
    scored = frame[["split", "row_id"]].copy()
    for index in range(len(columns)):
        scored[f"prob_{index}"] = probabilities[:, index]
    scored["predicted"] = probabilities.argmax(1)
    if supervisor is not None:
        weak = read_predictions(supervisor)
        names = [c.replace("logprob_", "supervisor_prob_") for c in logprob_columns(weak)]
        values = np.exp(weak[logprob_columns(weak)].to_numpy(np.float64))
        weak = weak[["split", "row_id"]].join(pd.DataFrame(values, weak.index, names))
        scored = scored.merge(weak, on=["split", "row_id"], how="left", validate="one_to_one")
    truth = pd.concat([read_truth(folder) for folder in truths])
    groups = read_prompts(prompts)[["split", "row_id", "group"]]
    joined = groups.merge(truth, on=["split", "row_id"], validate="one_to_one").merge(
        scored, on=["split", "row_id"], how="left", validate="one_to_one"
    )
    num_missing = int(joined["predicted"].isna().to_numpy().sum())
    if num_missing:
        raise ValueError(f"{num_missing} rows have a label but no prediction")
    if supervisor is not None:
        _check_whole(joined)
    joined["predicted"] = joined["predicted"].astype(int)
    joined["correct"] = joined["predicted"] == joined["label"]
    return joined


def _check_whole(joined: pd.DataFrame) -> None:
    """A supervisor may leave a split out, such as one that labels no test rows, but no part of it.

    Raises:
        ValueError: it covers only some rows of a split.
    """
    missing_N = np.isnan(np.asarray(joined["supervisor_prob_0"]))
    splits_N = np.asarray(joined["split"])
    for split in np.unique(splits_N).tolist():
        share = float(missing_N[splits_N == split].mean())
        if 0 < share < 1:
            raise ValueError(f"the supervisor has no prediction for {share:.1%} of {split}")


def _predicted(folder: Path) -> pd.DataFrame:
    """The most probable class of each row: split, row_id, predicted."""
    frame = read_predictions(folder)
    predicted = frame[logprob_columns(frame)].to_numpy().argmax(1)
    return frame[["split", "row_id"]].assign(predicted=predicted)


def _metrics(frame: pd.DataFrame) -> dict[str, Any]:
    labels_N = frame["label"].to_numpy()
    probabilities_NC = _matrix(frame, "prob_")
    scores: dict[str, Any] = {
        "num_rows": len(frame),
        "accuracy": metrics.accuracy(probabilities_NC, labels_N),
        "balanced_accuracy": metrics.balanced_accuracy(probabilities_NC, labels_N),
        "log_loss": metrics.log_loss(
            np.log(np.maximum(probabilities_NC, metrics.SMALLEST_PROBABILITY)), labels_N
        ),
        "brier": metrics.brier(probabilities_NC, labels_N),
        "expected_calibration_error": metrics.expected_calibration_error(
            probabilities_NC, labels_N
        ),
    }
    if probabilities_NC.shape[1] == 2:
        scores["auroc"] = metrics.auroc(probabilities_NC[:, 1], labels_N)
    supervisor_NC = _matrix(frame, "supervisor_prob_")
    if supervisor_NC.shape[1] and not np.isnan(supervisor_NC).any():
        agreement = metrics.agreement(probabilities_NC, supervisor_NC, labels_N)
        scores["agreement"] = agreement.overall
        scores["agreement_where_right"] = agreement.supervisor_right
        scores["agreement_where_wrong"] = agreement.supervisor_wrong
        misfit = metrics.misfit(probabilities_NC, supervisor_NC)
        scores["misfit_squared"] = misfit.squared
        scores["misfit_divergence"] = misfit.divergence
    return {name: None if value != value else value for name, value in scores.items()}


def _matrix(frame: pd.DataFrame, prefix: str) -> "np.ndarray[Any, Any]":
    columns = [c for c in frame.columns if c.startswith(prefix)]
    return frame[sorted(columns, key=lambda c: int(c.removeprefix(prefix)))].to_numpy()


def read_evaluation(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics by split."""
    return json.loads((folder / EVALUATION_FILE).read_text())


def read_rows(folder: Path) -> pd.DataFrame:
    """The scored rows."""
    from pyarrow import parquet

    # Small files by the thousand: handing each to a pool of threads takes longer than reading it.
    table = parquet.ParquetFile(folder / ROWS_FILE).read(use_threads=False)
    return table.to_pandas(use_threads=False)
