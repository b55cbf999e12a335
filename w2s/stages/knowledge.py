"""Background knowledge on each question, written by one model for another (Sang et al. 2024).

The writer sees the question and never the proposed answer, so what it writes cannot argue for one.
It is shown demonstrations, which the reader's own side wrote for a few questions: that is the human
part of their human-AI interaction, with a weak model in the human's place. Rows of one question
share their knowledge.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from serving.messages import seed_of
from w2s.errors import UserError
from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.models import Model, model_key
from w2s.stages.window import window_of
from w2s.stages.writing import FINISHED_FILE, Written, sampling_of, write_until
from w2s.tasks.base import Task, load
from w2s.templates import KnowledgePrompts
from w2s.types import SPLITS

if TYPE_CHECKING:
    from pydantic import BaseModel

QUESTIONS_FILE = "questions.parquet"
DEMOS_FILE = "demos.parquet"


class Questions(Stage):
    """The questions of all four splits: no answers that rows propose, no labels."""

    task: OneOf[Task]
    """The task whose questions are written."""
    data: str = ""
    """Fingerprint of the task's data outside its spec."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"questions-{self.task.kind}"

    def run(self, context: StageContext) -> None:
        """Write `questions.parquet` (split, row_id, group, question)."""
        rows = load(self.task).rows
        pd.DataFrame(
            [
                (split, row.row_id, row.group, row.question or row.prompt)
                for split in SPLITS
                for row in rows[split]
            ],
            columns=["split", "row_id", "group", "question"],
        ).to_parquet(context.output_dir / QUESTIONS_FILE, index=False)


class KnowledgeDemos(Stage):
    """A model's knowledge on a few questions of `strong_train`, to be shown to another model."""

    lane: ClassVar[Lane] = "serve"

    model: Model
    """Model that writes; the one in the human's place."""
    questions: Questions
    """The questions."""
    templates: KnowledgePrompts
    """What it reads, and when a text will do."""
    number: int = Field(default=8, ge=1)
    """Questions drawn."""
    max_attempts: int = Field(default=8, ge=1)
    """Texts drawn for a question until one ends as it should."""
    seed: int = Field(ge=0)
    """Which questions, and what is written."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"knowledge-demos-{self.model.name.removeprefix('pretrain-')}-s{self.seed}"

    @property
    def served_models(self) -> "tuple[Stage | BaseModel, ...]":
        """The writer."""
        return (self.model,)

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `demos.parquet` (row_id, group, question, knowledge).

        Texts that are still empty after all attempts are left out.

        Raises:
            UserError: all of them are.
        """
        chosen, prompts = await asyncio.to_thread(self._prompts, context)
        templates = self.templates
        written = await write_until(
            lambda text: bool(text) and text.endswith(templates.demo_end),
            context.clients[model_key(self.model)],
            prompts,
            sampling_of(templates, templates.demo_max_tokens),
            context,
            context.output_dir / FINISHED_FILE,
            what="demonstration",
            seed=self.seed,
            max_attempts=self.max_attempts,
        )
        texts = [written[row_id][0].text.strip() for row_id in chosen["row_id"]]
        demos = chosen.assign(knowledge=texts)
        demos = demos.loc[demos["knowledge"] != ""]
        if demos.empty:
            raise UserError(
                f"{self.model.name} wrote nothing about any of {len(texts)} questions in "
                f"{self.max_attempts} attempts each; change the knowledge templates (`stop`?) or "
                "take another model"
            )
        columns = ["row_id", "group", "question", "knowledge"]
        demos[columns].to_parquet(context.output_dir / DEMOS_FILE, index=False)

    def _prompts(self, context: StageContext) -> tuple[pd.DataFrame, dict[str, str]]:
        """The questions drawn, and the prompt of each by row id."""
        frame: Any = pd.read_parquet(context.path(self.questions) / QUESTIONS_FILE)
        own = frame[frame["split"] == "strong_train"].drop_duplicates("question")
        order = np.random.default_rng(self.seed).permutation(len(own))[: self.number]
        chosen = own.iloc[order].reset_index(drop=True)
        window, room = window_of(self.model, context), self.templates.demo_max_tokens
        prompts = {
            row_id: window.without_beginning(question, self.templates.for_demo, room)
            for row_id, question in zip(chosen["row_id"], chosen["question"], strict=True)
        }
        return chosen, prompts


class Knowledge(Written):
    """Background knowledge on the question of every row, as transcripts."""

    questions: Questions
    """The questions."""
    demos: KnowledgeDemos | None = None
    """Demonstrations to draw from; None: it is shown none."""
    num_demos: int = Field(default=2, ge=1)
    """Demonstrations a prompt, drawn afresh for each question, never on the question itself."""
    templates: KnowledgePrompts
    """What the writer reads, and how readers see what it writes."""

    @property
    def task(self) -> Task:
        """The task of the rows."""
        return self.questions.task

    @property
    def writing(self) -> KnowledgePrompts:
        """The templates."""
        return self.templates

    @property
    def texts_shown(self) -> int:
        """The question and its demonstrations."""
        return 1 + (self.num_demos if self.demos else 0)

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `transcripts.parquet` (split, row_id, text, turns) for every row.

        Raises:
            UserError: the templates alone do not fit the model's context.
        """
        await self.write(context, *await asyncio.to_thread(self._prompts, context))

    def _prompts(self, context: StageContext) -> tuple[pd.DataFrame, dict[str, str]]:
        """The rows with the `name` of their question (its first row's id), and prompts by name."""
        frame = pd.read_parquet(context.path(self.questions) / QUESTIONS_FILE)
        frame = frame.loc[frame["split"].isin(self.splits)]
        frame = frame.assign(name=frame.groupby("question")["row_id"].transform("first"))
        pool: list[tuple[str, str, str]] = []
        if self.demos is not None:
            known = pd.read_parquet(context.path(self.demos) / DEMOS_FILE)
            pool = list(zip(known["group"], known["question"], known["knowledge"], strict=True))
        window, room = window_of(self.model, context), self.templates.max_tokens
        prompts: dict[str, str] = {}
        for name, group, question in zip(
            frame["name"], frame["group"], frame["question"], strict=True
        ):
            if name in prompts:
                continue
            # Rows of its group may ask nearly the same.
            others = [(asked, known) for own, asked, known in pool if own != group]
            generator = np.random.default_rng(seed_of("demos", self.seed, name))
            chosen = generator.permutation(len(others))[: self.num_demos]
            demos = [others[place] for place in chosen]
            while demos and not window.fits(self.templates.with_demos(question, demos), room):
                demos.pop(0)
            build = partial(self.templates.with_demos, demos=demos)
            prompts[name] = window.without_beginning(question, build, room)
        return frame, prompts
