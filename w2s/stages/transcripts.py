"""Transcripts as files, and the two controls that destroy what they say.

A transcripts artifact is `transcripts.parquet`: split, row_id, text (as a model reads it) and turns
(JSON, as a person reads it). Where readers get the row's question without its passage there is a
column `prompt`, which they read in place of the row's prompt. `ShuffledTranscripts` gives each row
another row's debate; `PermutedTranscripts` exchanges the values inside each debate and keeps
everything else.
"""

from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
from pydantic import SerializeAsAny

from w2s.spec import OneOf
from w2s.stages.base import Stage, StageContext
from w2s.tasks.base import Task

TRANSCRIPTS_FILE = "transcripts.parquet"
PROMPT = "prompt"
"""Column of what is read in place of a row's prompt."""


def read_transcripts(folder: Path) -> pd.DataFrame:
    """A transcripts artifact: split, row_id, text, turns."""
    return pd.read_parquet(folder / TRANSCRIPTS_FILE)


class ShuffledTranscripts(Stage):
    """Each row gets another row's debate: same style, evidence about something else."""

    transcripts: SerializeAsAny[Stage]
    """Stage that leaves transcripts."""
    seed: int
    """Seed of the exchange."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"shuffled-{self.transcripts.name}"

    def run(self, context: StageContext) -> None:
        """Write the exchanged transcripts: a random cycle, so no row keeps its own."""
        frame = read_transcripts(context.path(self.transcripts))
        generator = np.random.default_rng(self.seed)
        text = frame["text"].to_numpy(object, copy=True)
        turns = frame["turns"].to_numpy(object, copy=True)
        for split in frame["split"].unique():
            rows = np.flatnonzero(frame["split"] == split)
            cycle = generator.permutation(rows)
            text[cycle], turns[cycle] = text[np.roll(cycle, 1)], turns[np.roll(cycle, 1)]
        frame.assign(text=text, turns=turns).to_parquet(
            context.output_dir / TRANSCRIPTS_FILE, index=False
        )


class PermutedTranscripts(Stage):
    """Each debate with its values exchanged: words, positions, equalities stay, evidence goes."""

    transcripts: SerializeAsAny[Stage]
    """Stage that leaves transcripts."""
    task: OneOf[Task]
    """Task that knows which words are values."""
    seed: int
    """Seed of the exchanges."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"permuted-{self.transcripts.name}"

    def run(self, context: StageContext) -> None:
        """Write the permuted transcripts; each row has its own exchange, seeded by its id."""
        frame = read_transcripts(context.path(self.transcripts))
        text = [
            self.task.permute_values(text, Random(f"{self.seed}:{row_id}"))
            for text, row_id in zip(frame["text"], frame["row_id"], strict=True)
        ]
        frame.assign(text=text, turns="[]").to_parquet(
            context.output_dir / TRANSCRIPTS_FILE, index=False
        )
