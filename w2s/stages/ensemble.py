"""Stages that make labels from labels: the mean of several members, and a shuffled control."""

from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, SerializeAsAny

from w2s.stages.base import Stage, StageContext
from w2s.stages.predictions import logprob_columns, read_predictions, write_predictions


class Ensemble(Stage):
    """Mean of the members' class probabilities (Lang et al. 2025, section on ensembles)."""

    members: tuple[SerializeAsAny[Stage], ...] = Field(min_length=2)
    """Stages that leave predictions for the same rows."""
    combine: Literal["mean"] = "mean"
    """How probabilities are combined."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"ensemble-{len(self.members)}x{self.combine}"

    def run(self, context: StageContext) -> None:
        """Write the combined predictions; members are joined by (split, row_id)."""
        first = read_predictions(context.path(self.members[0]))
        columns = logprob_columns(first)
        index = pd.MultiIndex.from_frame(first.loc[:, ["split", "row_id"]])
        probabilities = np.zeros((len(first), len(columns)))
        for member in self.members:
            frame = read_predictions(context.path(member)).set_index(["split", "row_id"])
            if len(frame) != len(first) or not index.isin(frame.index).all():
                raise ValueError(
                    f"member {member.name} ({member.key}) predicts other rows than the first member"
                )
            probabilities += np.exp(frame.loc[index, columns].to_numpy(np.float64))
        write_predictions(
            context.output_dir,
            first["split"].tolist(),
            first["row_id"].tolist(),
            np.log(probabilities / len(self.members)),
        )


class ShuffledLabels(Stage):
    """Predictions of `labels`, exchanged at random among the rows of each split.

    The control whose student must come out at chance: same label distribution, no relation to the
    row.
    """

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    seed: int
    """Seed of the permutation."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"shuffled-labels-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write the permuted predictions."""
        frame = read_predictions(context.path(self.labels))
        values = frame[logprob_columns(frame)].to_numpy(np.float64, copy=True)
        generator = np.random.default_rng(self.seed)
        for split in frame["split"].unique():
            rows = np.flatnonzero(frame["split"] == split)
            values[rows] = values[generator.permutation(rows)]
        write_predictions(
            context.output_dir, frame["split"].tolist(), frame["row_id"].tolist(), values
        )
