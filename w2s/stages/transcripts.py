"""Transcripts as files, and the two controls that destroy what they say.

A transcripts artifact is `transcripts.parquet`: split, row_id, text (as a model reads it) and turns
(JSON, as a person reads it). Where readers get the row's question without its passage there is a
column `prompt`, which they read in place of the row's prompt. `ShuffledTranscripts` gives each row
another row's debate; `PermutedTranscripts` exchanges the values inside each debate and keeps
everything else.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
from pydantic import SerializeAsAny

from serving.debate.prompts import cut
from w2s.spec import OneOf
from w2s.stages.base import Stage, StageContext
from w2s.tasks.base import Task

TRANSCRIPTS_FILE = "transcripts.parquet"
PROMPT = "prompt"
"""Column of what is read in place of a row's prompt."""


def read_transcripts(folder: Path) -> pd.DataFrame:
    """A transcripts artifact: split, row_id, text, turns."""
    return pd.read_parquet(folder / TRANSCRIPTS_FILE)


def shortened(
    text: str, turns: str, build: Callable[[str], str], count: Callable[[str], int], most: int
) -> str:
    """A transcript whose arguments lose their last words, so that a model can read the whole.

    All arguments are cut at the same number of words; who says them, and all that stands around the
    transcript, is left alone.

    Args:
        text: the transcript as a model reads it.
        turns: its turns (JSON). Where their texts are not in `text`, all of it is one argument.
        build: what the model reads, made of the transcript.
        count: length of that.
        most: largest length.

    Returns:
        The transcript; without any argument if it is too long even so.
    """
    total = count(build(text))
    if total <= most:
        return text
    pieces, end = _arguments(text, turns)
    lengths_A = np.array([len(argument.split()) for _, argument in pieces])

    def cut_at(num_words: int) -> str:
        return "".join(mark + cut(argument, num_words) for mark, argument in pieces) + end

    least = count(build(cut_at(0)))
    per_word = max(total - least, 1) / max(lengths_A.sum(), 1)
    num_words = int(lengths_A.max())
    while num_words > 0 and total > most:
        # From the length of a mean word; words differ, so it may take more than once.
        kept = np.minimum(lengths_A, num_words)
        target = kept.sum() - math.ceil((total - most) / per_word)
        while num_words > 0 and np.minimum(lengths_A, num_words).sum() > target:
            num_words -= 1
        total = count(build(cut_at(num_words)))
    return cut_at(num_words)


def _arguments(text: str, turns: str) -> tuple[list[tuple[str, str]], str]:
    """The arguments of a transcript, each with what stands before it, and what ends the text."""
    pieces, end = [], 0
    for turn in json.loads(turns):
        start = text.find(turn["text"], end)
        if start < 0:
            return [("", text)], ""
        pieces.append((text[end:start], turn["text"]))
        end = start + len(turn["text"])
    return (pieces, text[end:]) if pieces else ([("", text)], "")


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
