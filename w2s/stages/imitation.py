"""Prompts that give the weak label away: errors so easy to imitate that a student must repeat them.

Burns et al. 2023, appendix E ("trivial imitation").
"""

import pandas as pd
from pydantic import Field, SerializeAsAny

from w2s.stages.base import Stage, StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.predictions import logprob_columns, read_predictions
from w2s.stages.transcripts import TRANSCRIPTS_FILE


class StatedLabels(Stage):
    """A sentence a row that states the weak label, in place of a transcript."""

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    prompts: Prompts
    """The rows; those without a prediction (`weak_train`) get no sentence."""
    template: str = Field(pattern=r"\{label\}")
    """The sentence, with `{label}` for the number of the most probable class."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"stated-{self.labels.name}"

    def run(self, context: StageContext) -> None:
        """Write `transcripts.parquet` (split, row_id, text, turns)."""
        weak = read_predictions(context.path(self.labels))
        classes_N = weak[logprob_columns(weak)].to_numpy().argmax(1)
        weak["text"] = [self.template.replace("{label}", str(label)) for label in classes_N]
        frame: pd.DataFrame = read_prompts(context.path(self.prompts))[["split", "row_id"]].merge(
            weak[["split", "row_id", "text"]],
            on=["split", "row_id"],
            how="left",
            validate="one_to_one",
        )
        frame.assign(text=frame["text"].fillna(""), turns="[]").to_parquet(
            context.output_dir / TRANSCRIPTS_FILE, index=False
        )
