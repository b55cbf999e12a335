"""Predictions of training rows by models that did not learn them.

A supervisor is sure of the rows it was trained on, and right about most of them: what is made of
its predictions there tells the label. So `weak_train` is cut into folds of whole groups, a model
learns all folds but one (`FoldTruth`), and `CrossFitted` takes each row from the model that did not
see it.
"""

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, model_validator

from w2s.errors import UserError
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import LABELS_FILE, GroundTruth, Prompts, read_prompts, read_truth
from w2s.stages.labels import joined
from w2s.stages.predictions import PREDICTIONS_FILE, read_predictions


def folds_of(groups_N: "NDArray[Any]", num_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold [N] of each row: groups in a random order, dealt out one by one.

    Args:
        groups_N: group of each row; those of one group are in one fold.
        num_folds: folds, 0 to num_folds - 1.
        seed: of the order.
    """
    names, codes_N = np.unique(groups_N, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % num_folds)[codes_N]


class FoldTruth(Stage):
    """Ground truth of `weak_train` in which the rows of one fold have a weight of 0."""

    truth: GroundTruth
    """Ground truth of `weak_train`."""
    prompts: Prompts
    """For the group of each row."""
    fold: int = Field(ge=0)
    """The fold that is left out."""
    num_folds: int = Field(ge=2)
    """Number of folds."""
    seed: int = Field(ge=0)
    """Which group is in which fold."""

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if self.fold >= self.num_folds:
            raise ValueError(f"fold {self.fold} of {self.num_folds}; they are counted from 0")
        return self

    @property
    def name(self) -> str:
        """Readable name."""
        return f"without-fold-{self.fold}-of-{self.num_folds}-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write `labels.parquet` (split, row_id, label, weight).

        Raises:
            UserError: there are fewer groups than folds.
        """
        truth = read_truth(context.path(self.truth))
        prompts = read_prompts(context.path(self.prompts), "weak_train")
        groups_N = joined(prompts, truth["row_id"].tolist(), "prompts")["group"].to_numpy()
        if (num_groups := len(set(groups_N))) < self.num_folds:
            raise UserError(
                f"{self.num_folds} folds of weak_train, which has {num_groups} group(s) of rows; "
                "lower `num_folds` or give more rows"
            )
        out_N = folds_of(groups_N, self.num_folds, self.seed) == self.fold
        truth.assign(weight=np.where(out_N, 0.0, 1.0).astype(np.float32)).to_parquet(
            context.output_dir / LABELS_FILE, index=False
        )


class CrossFitted(Stage):
    """Predictions of all splits; those of `weak_train` by models that did not learn the row."""

    whole: SerializeAsAny[Stage]
    """Predictions of `strong_train`, `val` and `test`, by a model that learnt all of
    `weak_train`."""
    folds: tuple[FoldTruth, ...] = Field(min_length=2)
    """What each member learnt; together they leave out every row once."""
    members: tuple[SerializeAsAny[Stage], ...]
    """Predictions of `weak_train` by the models that learnt these."""

    @model_validator(mode="after")
    def _each_row_is_left_out_once(self) -> Self:
        if len(self.members) != len(self.folds):
            raise ValueError(f"{len(self.members)} members for {len(self.folds)} folds")
        if [fold.fold for fold in self.folds] != list(range(self.folds[0].num_folds)):
            raise ValueError("the folds must be all of one cut, in order")
        return self

    @property
    def name(self) -> str:
        """Readable name."""
        return f"cross-fitted-{len(self.folds)}-{self.whole.name}"

    def run(self, context: StageContext) -> None:
        """Write `predictions.parquet` (split, row_id, logprob_*) of all four splits.

        Raises:
            ValueError: a member lacks a row of the fold it did not learn.
        """
        whole = read_predictions(context.path(self.whole))
        parts = [whole.loc[whole["split"] != "weak_train"]]
        for fold, member in zip(self.folds, self.members, strict=True):
            truth = read_truth(context.path(fold))
            left_out = truth.loc[truth["weight"] == 0, "row_id"].tolist()
            found = read_predictions(context.path(member))
            own = found.loc[found["split"] == "weak_train"]
            parts.append(joined(own, left_out, f"predictions of {member.name}"))
        pd.concat(parts, ignore_index=True)[whole.columns.tolist()].to_parquet(
            context.output_dir / PREDICTIONS_FILE, index=False
        )
