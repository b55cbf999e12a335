"""Labels of several members for one student, which learns all of them at once.

N rows, M members, C classes.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.spec import OneOf
from w2s.stages.base import Stage, StageContext
from w2s.stages.predictions import (
    Members,
    logprob_columns,
    read_predictions,
    write_predictions,
)
from w2s.weightings.base import Weighting


class MemberLabels(Stage):
    """Every member's label of a row, with a weight each (Cui et al. 2024, "multi-weak").

    A student learns the members' labels; whoever reads plain predictions reads their weighted mean.
    """

    members: tuple[SerializeAsAny[Stage], ...] = Field(min_length=2)
    """Stages that leave predictions for the same rows."""
    weights: OneOf[Weighting]
    """How much each member counts."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"labels-of-{len(self.members)}-{self.weights.kind}"

    def run(self, context: StageContext) -> None:
        """Write the members' labels and their mean; members are joined by (split, row_id).

        A row that a member has a sample weight for gets the weighted mean of theirs.
        """
        frames = [read_predictions(context.path(member)) for member in self.members]
        rows = pd.MultiIndex.from_frame(frames[0].loc[:, ["split", "row_id"]])
        columns = logprob_columns(frames[0])
        logprobs: list[NDArray[np.float64]] = []
        samples: list[NDArray[np.float64]] = []
        for member, frame in zip(self.members, frames, strict=True):
            indexed = frame.set_index(["split", "row_id"])
            if len(indexed) != len(rows) or not rows.isin(indexed.index).all():
                raise ValueError(
                    f"member {member.name} ({member.key}) predicts other rows than the first member"
                )
            indexed = indexed.loc[rows]
            logprobs.append(indexed[columns].to_numpy(np.float64))
            samples.append(
                indexed["weight"].to_numpy(np.float64)
                if "weight" in indexed.columns
                else np.ones(len(rows))
            )
        logprobs_NMC = np.stack(logprobs, axis=1)
        weights_NM = self.weights.weights(logprobs_NMC)
        probabilities_NC = (weights_NM[:, :, None] * np.exp(logprobs_NMC)).sum(1)
        write_predictions(
            context.output_dir,
            frames[0]["split"].tolist(),
            frames[0]["row_id"].tolist(),
            np.log(np.maximum(probabilities_NC, np.finfo(np.float32).tiny)),
            (weights_NM * np.stack(samples, axis=1)).sum(1),
            Members(logprobs_NMC, weights_NM, self.weights),
        )
