"""Debates by served models about the rows of a task (Lang et al. 2025).

Models argue opposite positions as a protocol says; what its readers make of it is another stage's.
Each finished debate is appended to `transcripts.jsonl` at once, so an attempt after a crash
generates only what is missing.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
from pydantic import Field, SerializeAsAny

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.run import run_debates
from serving.debate.types import Position, Question, Side, Speaker, Transcript
from w2s.models.source import PretrainedModel
from w2s.spec import OneOf
from w2s.stages.base import Lane, Requests, Stage, StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.models import Model, model_key
from w2s.stages.predictions import logprob_columns, read_predictions
from w2s.stages.resume import appending, finished_lines
from w2s.stages.transcripts import PROMPT, TRANSCRIPTS_FILE
from w2s.stages.window import window_of
from w2s.tasks.base import shape_of
from w2s.types import SPLITS, Split

if TYPE_CHECKING:
    from pydantic import BaseModel

FINISHED_FILE = "transcripts.jsonl"


class Debate(Stage):
    """One debate about every row of the named splits."""

    lane: ClassVar[Lane] = "serve"

    debater: Model
    """Model that argues; for both sides, unless there is an opponent."""
    opponent: Model | None = None
    """Model that speaks for side B, in open debates for the side that was not chosen; None: the
    debater."""
    judge: Model | None = None
    """Model that asks questions or chooses among candidates, in protocols that have it."""
    against: SerializeAsAny[Stage] | None = None
    """Predictions of all debated rows, in protocols that argue against what a model picked."""
    prompts: Prompts
    """The questions."""
    templates: DebatePrompts
    """What the debaters read."""
    protocol: OneOf[DebateProtocol]
    """Who speaks when, and how turns are sampled."""
    seed: int = Field(ge=0)
    """Seed of sides and arguments."""
    splits: tuple[Split, ...] = SPLITS
    """Whose rows are debated."""

    @property
    def name(self) -> str:
        """Readable name."""
        by = (
            "model"
            if isinstance(self.debater, PretrainedModel)
            else self.debater.name.removeprefix("pretrain-")
        )
        what = "debate" if self.protocol.kind == "sequential" else self.protocol.kind
        return f"{what}-{by}-s{self.seed}"

    @property
    def served_models(self) -> "tuple[Stage | BaseModel, ...]":
        """All that speak."""
        models = {
            model_key(model): model
            for model in (self.debater, self.opponent, self.judge)
            if model is not None
        }
        return tuple(models.values())

    def cost(self) -> float:
        """Estimated seconds on one core, at the rate of a small model."""
        num_rows = shape_of(self.prompts.task).num_rows
        num_turns = len(self.protocol.slots()) * self.protocol.best_of
        return sum(num_rows[split] for split in self.splits) * num_turns / 400

    def requests(self) -> dict[str, Requests]:
        """Estimated requests: one a turn and candidate, and a score of each candidate."""
        shape, protocol = shape_of(self.prompts.task), self.protocol
        num_rows = sum(shape.num_rows[split] for split in self.splits)
        found: dict[str, Requests] = {}

        def add(model: Model, times: int, read: float, written: int) -> None:
            asked = Requests(num_rows * times, int(num_rows * times * read), written * num_rows)
            key = model_key(model)
            found[key] = found.get(key, Requests(0, 0, 0)).plus(asked)

        read = shape.num_tokens
        if protocol.open:
            add(self.debater, 1, read, 1)
        thinking = self.templates.thinking_tokens if protocol.thinking else 0
        for slot in protocol.slots():
            longest = self.templates.tokens_of(slot.index) + thinking
            if slot.side == "judge":
                longest = self.templates.question_tokens
            times = 1 if slot.side == "judge" else protocol.best_of
            voices = {"A": self.debater, "B": self.opponent, "judge": self.judge}
            add(voices[slot.side] or self.debater, times, read, times * longest)
            if times > 1 and self.judge is not None:
                add(self.judge, times, read + longest, times)
            read += longest
        return found

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `transcripts.parquet` (split, row_id, text, turns, chosen) for every row.

        Where only debaters read the passages there is a column `prompt` too: what whoever reads the
        transcript reads in place of the row's prompt.
        """
        frame: Any = read_prompts(context.path(self.prompts))
        frame = frame[frame["split"].isin(self.splits)]
        questions = [
            self.question(row_id, prompt)
            for row_id, prompt in zip(frame["row_id"], frame["prompt"], strict=True)
        ]
        # The loop belongs to all stages of the lane: what takes long runs beside it.
        speakers = await asyncio.to_thread(self.speakers, context)
        path = context.output_dir / FINISHED_FILE
        done = _read_finished(path)
        total, num_tokens = len(questions), 0

        with appending(path) as append:

            def finished(transcript: Transcript) -> None:
                nonlocal num_tokens
                done[transcript.question_id] = transcript
                num_tokens += sum(turn.num_tokens for turn in transcript.turns)
                append(transcript.to_row())
                context.progress(len(done), total, {"tokens": float(num_tokens)})

            await run_debates(
                self.protocol,
                questions,
                speakers,
                seed=self.seed,
                prompts=self.templates,
                on_transcript=finished,
                picks=None if self.against is None else _picks(context.path(self.against)),
                finished=frozenset(done),
            )
        columns: dict[str, Any] = {
            "split": frame["split"].tolist(),
            "row_id": frame["row_id"].tolist(),
            "text": [self.templates.render(done[q.id].turns) for q in questions],
            "turns": [done[q.id].to_row()["turns"] for q in questions],
            "chosen": [done[q.id].chosen for q in questions],
        }
        if self.protocol.hide_passage:
            columns[PROMPT] = [question.judge_text for question in questions]
        pd.DataFrame(columns).to_parquet(context.output_dir / TRANSCRIPTS_FILE, index=False)

    def question(self, row_id: str, prompt: str) -> Question:
        """A row as it is debated."""
        task, hide = self.prompts.task, self.protocol.hide_passage
        return Question(
            id=row_id,
            text=prompt,
            passage=task.passage(prompt),
            judge_text=task.without_passage(prompt) if hide else "",
        )

    def speakers(self, context: StageContext) -> dict[Side, Speaker]:
        """Who speaks for each side, with what is known of how much it reads."""
        models = {"A": self.debater, "B": self.opponent or self.debater, "judge": self.judge}
        windows = {
            model_key(model): window_of(model, context)
            for model in models.values()
            if model is not None
        }
        speakers: dict[Side, Speaker] = {}
        for side in ("A", "B", "judge"):
            if (model := models[side]) is not None:
                key = model_key(model)
                speakers[side] = Speaker(
                    model=model.name,
                    digest=key,
                    client=context.clients[key],
                    count=windows[key].count,
                    max_tokens=windows[key].max_tokens,
                )
        return speakers


def _picks(folder: Path) -> dict[str, Position]:
    """What a model holds each proposed answer for, by row id; of equal probabilities incorrect."""
    frame = read_predictions(folder)
    no, yes = (frame[name].to_numpy() for name in logprob_columns(frame))
    return {
        row_id: "correct" if held else "incorrect"
        for row_id, held in zip(frame["row_id"], yes > no, strict=True)
    }


def _read_finished(path: Path) -> dict[str, Transcript]:
    """Debates that an earlier attempt finished."""
    found = map(Transcript.from_row, finished_lines(path))
    return {transcript.question_id: transcript for transcript in found}
