"""Truth of `weak_train` of which each member of an ensemble learns another part.

What these leave is a truth artifact with a column `weight`: how often a row was drawn, 0 where it
is not learnt. Rows of one group (question, entity) are drawn or left out together: a row left out
then tells what a member makes of questions that it has not seen.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.errors import UserError
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import LABELS_FILE, Prompts, read_prompts, read_truth
from w2s.stages.labels import joined


def weights_of(truth: pd.DataFrame) -> NDArray[np.float64]:
    """Sample weights [N] of a truth artifact; 1 where it has none."""
    if "weight" in truth.columns:
        return truth["weight"].to_numpy(np.float64)
    return np.ones(len(truth))


class ResampledTruth(Stage):
    """A sample of the rows: a bootstrap, or a share of them without replacement.

    Rows that `labels` gives no weight are never drawn.
    """

    labels: SerializeAsAny[Stage]
    """Truth of `weak_train`, plain or with weights."""
    prompts: Prompts
    """For the group of each row."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Groups drawn, as a share of all groups: at least one."""
    replace: bool = True
    """Whether a group can be drawn more than once (Breiman 1996)."""
    seed: int = Field(ge=0)
    """Which ones."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"resampled-{self.share:g}{'' if self.replace else '-without'}-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write `labels.parquet` (split, row_id, label, weight)."""
        truth, groups = _with_groups(self, context)
        weights_N = weights_of(truth)
        counts = draws(groups[weights_N > 0], self.share, self.replace, self.seed)
        drawn_N = np.array([counts.get(group, 0) for group in groups])
        _write(truth, weights_N * drawn_N, context)


class HeldOutTruth(Stage):
    """All rows but those of a random share of the groups, which are left out.

    A combiner of several members is fitted on what is left out.
    """

    labels: SerializeAsAny[Stage]
    """Truth of `weak_train`, plain or with weights."""
    prompts: Prompts
    """For the group of each row."""
    share: float = Field(gt=0, lt=1)
    """Groups left out, as a share of all groups: at least one, never all."""
    seed: int = Field(ge=0)
    """Which ones."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"held-out-{self.share:g}-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write `labels.parquet` (split, row_id, label, weight).

        Raises:
            UserError: there is but one group.
        """
        truth, groups = _with_groups(self, context)
        kept = draws(groups, 1 - self.share, replace=False, seed=self.seed)
        left_out_N = np.array([group not in kept for group in groups])
        if not left_out_N.any():
            raise UserError(
                f"{self.share:g} of weak_train is held out for the combiner, but its "
                f"{len(set(groups))} group(s) leave none; raise `held_out` or give more rows"
            )
        _write(truth, weights_of(truth) * ~left_out_N, context)


def draws(groups: "NDArray[Any]", share: float, replace: bool, seed: int) -> dict[str, int]:
    """How often each drawn group is drawn.

    Args:
        groups: group of each row.
        share: of the number of groups, rounded; at least one.
        replace: with replacement or without. Without, a larger share at the same seed holds the
            groups of a smaller one.
        seed: of the draw.
    """
    names = np.unique(groups)
    number = max(1, round(share * len(names)))
    generator = np.random.default_rng(seed)
    drawn = (
        generator.integers(0, len(names), number)
        if replace
        else generator.permutation(len(names))[:number]
    )
    chosen, counts = np.unique(names[drawn], return_counts=True)
    return dict(zip(chosen.tolist(), counts.tolist(), strict=True))


def _with_groups(
    stage: ResampledTruth | HeldOutTruth, context: StageContext
) -> "tuple[pd.DataFrame, NDArray[Any]]":
    """Truth, and the group of each of its rows."""
    truth = read_truth(context.path(stage.labels))
    prompts = read_prompts(context.path(stage.prompts), "weak_train")
    return truth, joined(prompts, truth["row_id"].tolist(), "prompts")["group"].to_numpy()


def _write(truth: pd.DataFrame, weights_N: NDArray[np.float64], context: StageContext) -> None:
    frame = truth.assign(weight=weights_N.astype(np.float32))
    frame.to_parquet(context.output_dir / LABELS_FILE, index=False)
