"""Debates by served models about the rows of a task (Lang et al. 2025).

Two instances of one model argue opposite positions; nobody judges here. Each finished debate is
appended to `transcripts.jsonl` at once, so an attempt after a crash generates only what is missing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
from pydantic import Field, SerializeAsAny

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.run import run_debates
from serving.debate.types import Question, Speaker, Transcript
from w2s.spec import OneOf
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.models import Model, ModelStage, model_key
from w2s.stages.resume import finished_lines
from w2s.stages.transcripts import TRANSCRIPTS_FILE
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
            self.debater.name.removeprefix("pretrain-")
            if isinstance(self.debater, ModelStage)
            else "model"
        )
        return f"debate-{by}-s{self.seed}"

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
        return sum(num_rows[split] for split in self.splits) * len(self.protocol.order()) / 400

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `transcripts.parquet` (split, row_id, text, turns) for every row."""
        frame = read_prompts(context.path(self.prompts))
        frame = frame[frame["split"].isin(self.splits)]
        questions = [
            Question(id=row_id, text=prompt)
            for row_id, prompt in zip(frame["row_id"], frame["prompt"], strict=True)
        ]
        key = model_key(self.debater)
        speaker = Speaker(model=self.debater.name, digest=key, client=context.clients[key])
        done = _read_finished(context.output_dir / FINISHED_FILE)
        total, num_tokens = len(questions), 0

        with (context.output_dir / FINISHED_FILE).open("a", encoding="utf-8") as file:

            def finished(transcript: Transcript) -> None:
                nonlocal num_tokens
                done[transcript.question_id] = transcript
                num_tokens += sum(turn.num_tokens for turn in transcript.turns)
                file.write(json.dumps(transcript.to_row(), ensure_ascii=False) + "\n")
                file.flush()
                context.progress(len(done), total, {"tokens": float(num_tokens)})

            await run_debates(
                self.protocol,
                questions,
                {"A": speaker, "B": speaker},
                seed=self.seed,
                prompts=self.templates,
                on_transcript=finished,
                finished=frozenset(done),
            )
        rows = pd.DataFrame(
            {
                "split": frame["split"].tolist(),
                "row_id": frame["row_id"].tolist(),
                "text": [self.templates.render(done[q.id].turns) for q in questions],
                "turns": [done[q.id].to_row()["turns"] for q in questions],
            }
        )
        rows.to_parquet(context.output_dir / TRANSCRIPTS_FILE, index=False)


def _read_finished(path: Path) -> dict[str, Transcript]:
    """Debates that an earlier attempt finished."""
    found = map(Transcript.from_row, finished_lines(path))
    return {transcript.question_id: transcript for transcript in found}
