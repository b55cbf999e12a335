"""Stages that have tiny served models argue, for tests that kill what serves them."""

import os
from typing import ClassVar

from pydantic import SerializeAsAny

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.sequential import Sequential
from serving.debate.run import run_debates
from serving.debate.types import Question, Speaker, Transcript
from w2s.models.source import PretrainedModel
from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.models import model_key
from w2s.stages.resume import appending, finished_lines

FINISHED = "finished.jsonl"
TERSE = DebatePrompts(
    first="{question} {position}",
    reply="{question} {transcript} {position}",
    later="{question} {transcript} {position}",
    turn_template="{position} {text}",
    joiner=" ",
    correct_name="pro:",
    incorrect_name="con:",
    max_tokens=(6, 6, 3),
    exact_length=True,
    stop=(),
)


class Talk(Stage):
    """Debates between one or two served models, written down as they finish."""

    lane: ClassVar[Lane] = "serve"

    models: tuple[PretrainedModel, ...]
    """Who argues: the first for A, the last for B."""
    tag: str = ""
    """Tells stages apart."""
    num_debates: int = 8
    """How many, two at a time."""
    log: str = ""
    """File that gets a line (tag, question, process id) per finished debate; empty: none."""
    after: SerializeAsAny[Stage] | None = None
    """What must be there before it."""

    @property
    def name(self) -> str:
        return f"talk-{self.tag}"

    @property
    def served_models(self) -> tuple[PretrainedModel, ...]:
        return self.models

    async def run(self, context: StageContext) -> None:  # pyright: ignore
        path = context.output_dir / FINISHED
        done = {row["question_id"] for row in finished_lines(path)}
        keys = [model_key(model) for model in self.models]
        a, b = (Speaker(key, key, context.clients[key]) for key in (keys[0], keys[-1]))
        with appending(path) as append:

            def finished(transcript: Transcript) -> None:
                append(transcript.to_row())
                done.add(transcript.question_id)
                if self.log:
                    with open(self.log, "a") as log:
                        log.write(f"{self.tag} {transcript.question_id} {os.getpid()}\n")
                context.progress(len(done), self.num_debates, {})

            await run_debates(
                Sequential(),
                [Question(f"q{n}", f"Q: w{n % 200}") for n in range(self.num_debates)],
                {"A": a, "B": b},
                seed=3,
                prompts=TERSE,
                on_transcript=finished,
                finished=frozenset(done),
                debates_per_batch=2,
                max_batches_in_flight=1,
            )
        (context.output_dir / "number.json").write_text('{"value": 1}')
