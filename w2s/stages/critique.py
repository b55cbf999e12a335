"""A model's critique of the answer that each row proposes, for a weaker one to read.

The critic of the automated weak-to-strong researcher (Anthropic 2026) without its training by
reinforcement: the base model criticises as it is.
"""

import asyncio
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
from pydantic import Field

from w2s.stages.base import Lane, Requests, Stage, StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.models import Model, model_key
from w2s.stages.window import window_of
from w2s.stages.writing import leave_transcripts, sampling_of, write_until
from w2s.tasks.base import shape_of
from w2s.templates import CritiquePrompts
from w2s.types import SPLITS, Split

if TYPE_CHECKING:
    from pydantic import BaseModel

FINISHED_FILE = "texts.jsonl"


class Critique(Stage):
    """A critique of every row, question and proposed answer, as transcripts."""

    lane: ClassVar[Lane] = "serve"

    model: Model
    """Model that criticises."""
    prompts: Prompts
    """The rows."""
    templates: CritiquePrompts
    """What it reads, and how readers see what it writes."""
    max_attempts: int = Field(default=4, ge=1)
    """Texts drawn for a row until one is not empty."""
    seed: int = Field(ge=0)
    """Of the texts."""
    splits: tuple[Split, ...] = SPLITS
    """Whose rows are criticised."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"critique-{self.model.name.removeprefix('pretrain-')}-s{self.seed}"

    @property
    def served_models(self) -> "tuple[Stage | BaseModel, ...]":
        """The critic."""
        return (self.model,)

    def cost(self) -> float:
        """Estimated seconds on one core, at the rate of a small model."""
        num_rows = shape_of(self.prompts.task).num_rows
        return sum(num_rows[split] for split in self.splits) / 400

    def requests(self) -> dict[str, Requests]:
        """Estimated requests: one a row, if every text is good."""
        shape = shape_of(self.prompts.task)
        number = sum(shape.num_rows[split] for split in self.splits)
        written = number * self.templates.max_tokens
        return {model_key(self.model): Requests(number, int(number * shape.num_tokens), written)}

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `transcripts.parquet` (split, row_id, text, turns) for every row.

        Raises:
            UserError: the template alone does not fit the model's context.
        """
        frame, prompts = await asyncio.to_thread(self._prompts, context)
        written = await write_until(
            bool,
            context.clients[model_key(self.model)],
            prompts,
            sampling_of(self.templates),
            context,
            context.output_dir / FINISHED_FILE,
            what="critique",
            seed=self.seed,
            max_attempts=self.max_attempts,
        )
        leave_transcripts(context.output_dir, frame, written, self.templates, self.model)

    def _prompts(self, context: StageContext) -> tuple[pd.DataFrame, dict[str, str]]:
        """The rows, each named by its id, and the prompt of each."""
        frame = read_prompts(context.path(self.prompts))
        frame = frame.loc[frame["split"].isin(self.splits)]
        frame = frame.assign(name=frame["row_id"])
        window, room = window_of(self.model, context), self.templates.max_tokens
        prompts = {
            row_id: window.without_beginning(prompt, self.templates.render, room)
            for row_id, prompt in zip(frame["row_id"], frame["prompt"], strict=True)
        }
        return frame, prompts
