"""A model's critique of the answer that each row proposes, for a weaker one to read.

The critic of the automated weak-to-strong researcher (Anthropic 2026) without its training by
reinforcement: the base model criticises as it is.
"""

import asyncio

import pandas as pd

from w2s.stages.base import StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.window import window_of
from w2s.stages.writing import Written
from w2s.tasks.base import Task
from w2s.templates import CritiquePrompts


class Critique(Written):
    """A critique of every row, question and proposed answer, as transcripts."""

    prompts: Prompts
    """The rows."""
    templates: CritiquePrompts
    """What the critic reads, and how readers see what it writes."""

    @property
    def task(self) -> Task:
        """The task of the rows."""
        return self.prompts.task

    @property
    def writing(self) -> CritiquePrompts:
        """The templates."""
        return self.templates

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `transcripts.parquet` (split, row_id, text, turns) for every row.

        Raises:
            UserError: the templates alone do not fit the model's context.
        """
        await self.write(context, *await asyncio.to_thread(self._prompts, context))

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
