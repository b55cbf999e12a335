"""A served model judges rows, zero-shot, after reading what was said about each of them.

By default the label words are scored as what comes next and nothing is parsed (Sang et al. 2024):
a softmax over the scores is the judgement. With `how = "verdict"` the judge writes a line at
temperature 0, which is parsed strictly (Khan et al. 2024); what cannot be read is `INVALID` and
counts as even odds.

With `swap` every transcript is read twice, the second time with the sides exchanged: names, and the
order within rounds whose speakers did not read each other. The two judgements are averaged in
probability, so a judge that goes by sides alone comes out at even odds.

A prompt must fit the judge's context, counted in its own tokens. What is too long loses words at
the ends of the arguments, all arguments alike; the question is cut only where it does not fit
without any.

N rows, C classes.
"""

import asyncio
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import SerializeAsAny

from serving.debate.prompts import DebatePrompts
from serving.debate.types import Side, Turn, read_turns
from serving.errors import ServingInputError
from serving.messages import Sampling
from w2s.oversight import INVALID
from w2s.stages.asking import ask_scores, ask_texts
from w2s.stages.base import Lane, Requests, Stage, StageContext
from w2s.stages.data import Prompts, read_prompts
from w2s.stages.labels import SMALLEST_PROBABILITY
from w2s.stages.models import Model, model_key
from w2s.stages.predictions import write_predictions
from w2s.stages.transcripts import PROMPT, read_transcripts
from w2s.stages.window import Window, window_of
from w2s.tasks.base import shape_of
from w2s.templates import JudgePrompts
from w2s.types import Split

if TYPE_CHECKING:
    from pydantic import BaseModel

log = logging.getLogger(__name__)

FINISHED_FILE = "judgements.jsonl"
VERDICTS_FILE = "verdicts.parquet"
"""What a judge leaves beside its predictions."""
JUDGING_FILE = "judging.json"
SWAPPED = "#swapped"
"""Ends the name of the second reading of a row."""
PLAIN = DebatePrompts(turn_template="{text}")
"""Shows a text that has no turns."""
_OTHER_SIDE: dict[Side, Side] = {"A": "B", "B": "A", "judge": "judge"}


@dataclass(frozen=True, slots=True)
class Reading:
    """One row as the judge reads it, in one order of the sides or in both."""

    split: str
    row_id: str
    orders: tuple[tuple[Turn, ...], ...]
    """What was said."""
    texts: tuple[str, ...]
    """The prompt of each order."""

    @property
    def distinct(self) -> dict[str, str]:
        """Prompts that differ, by name; the first has the row's."""
        return dict(zip(self.names(True), dict.fromkeys(self.texts), strict=False))

    def names(self, both: bool) -> tuple[str, ...]:
        """Names of the readings."""
        return (self.row_id, self.row_id + SWAPPED) if both else (self.row_id,)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge makes of one reading."""

    probabilities_C: NDArray[np.float64]
    """Class probabilities."""
    text: str = ""
    """What it wrote."""
    is_valid: bool = True
    """Whether that could be read."""


class Judged(Stage):
    """A language model's labels after reading transcripts; nothing is trained."""

    lane: ClassVar[Lane] = "serve"

    model: Model
    """Language model that judges."""
    prompts: Prompts
    """The rows."""
    transcripts: SerializeAsAny[Stage] | None = None
    """What it reads about each row: debates or any other transcripts; None: nothing."""
    templates: JudgePrompts
    """What it reads around them, and the words of its answer."""
    turn_templates: DebatePrompts | None = None
    """How turns are shown: the transcripts' own form. None: their text is read as it is, in one
    order."""
    how: Literal["scores", "verdict"] = "scores"
    """Scores of the label words, or a written verdict that is parsed."""
    swap: bool = False
    """Whether every transcript is read in both orders, and the judgements averaged."""
    rounds: Literal["all", "last"] = "all"
    """Which rounds of a transcript are read: all, or the last one alone (Sang et al. 2024)."""
    hide_passage: bool = False
    """Whether questions are read without the passage they are about. (Where only debaters read it,
    transcripts bring the question without it.)"""
    splits: tuple[Split, ...] = ("strong_train", "val", "test")
    """Whose rows are judged."""

    @property
    def name(self) -> str:
        """Readable name: the judge, and what it reads."""
        read = self.transcripts.name if self.transcripts else "nothing"
        return f"judged-{self.model.name.removeprefix('pretrain-')}-{read}"

    @property
    def served_models(self) -> "tuple[Stage | BaseModel, ...]":
        """The judge."""
        return (self.model,)

    def cost(self) -> float:
        """Estimated seconds on one core: a forward pass over every prompt."""
        shape = shape_of(self.prompts.task)
        num_rows = sum(shape.num_rows[split] for split in self.splits) * (1 + self.swap)
        flops = 2 * self.model.size() * shape.num_tokens * (4 if self.transcripts else 1)
        return num_rows * (0.002 + flops / 4e10)

    def requests(self) -> dict[str, Requests]:
        """Estimated requests: one a reading."""
        shape = shape_of(self.prompts.task)
        number = sum(shape.num_rows[split] for split in self.splits) * (1 + self.swap)
        read = shape.num_tokens * (4 if self.transcripts else 1)
        written = 1 if self.how == "scores" else self.templates.verdict_tokens
        return {model_key(self.model): Requests(number, int(number * read), number * written)}

    async def run(self, context: StageContext) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `predictions.parquet`, `verdicts.parquet` and `judging.json` for `splits`.

        `verdicts.parquet`: split, row_id, logprob_first and logprob_swapped (of the last class, in
        nats; NaN where the order was not read), verdict (`correct`, `incorrect` or `INVALID`; the
        number of the class where there are more than two) and text (what a judge wrote).

        Raises:
            UserError: the templates alone do not fit the judge's context.
        """
        # The loop belongs to all stages of the lane: what takes long runs beside it.
        readings = await asyncio.to_thread(self.readings, context)
        found = await self._judgements(readings, context)
        orders = [[found[name] for name in reading.names(self.swap)] for reading in readings]
        probabilities_NOC = np.array([[one.probabilities_C for one in both] for both in orders])
        mean_NC = probabilities_NOC.mean(1)
        splits = [reading.split for reading in readings]
        row_ids = [reading.row_id for reading in readings]
        write_predictions(context.output_dir, splits, row_ids, np.log(mean_NC))
        verdicts = [
            self._word(int(label)) if any(one.is_valid for one in both) else INVALID
            for label, both in zip(mean_NC.argmax(1), orders, strict=True)
        ]
        pd.DataFrame(
            {
                "split": splits,
                "row_id": row_ids,
                "logprob_first": np.log(probabilities_NOC[:, 0, -1]),
                "logprob_swapped": np.log(probabilities_NOC[:, 1, -1]) if self.swap else np.nan,
                "verdict": verdicts,
                "text": [both[0].text for both in orders],
            }
        ).to_parquet(context.output_dir / VERDICTS_FILE, index=False)
        total, num_invalid = len(readings), verdicts.count(INVALID)
        notes = {"num_rows": total, "num_invalid": num_invalid}
        (context.output_dir / JUDGING_FILE).write_text(json.dumps(notes, indent=1))
        context.progress(total, total, {"invalid_rate": num_invalid / max(1, total)})

    def readings(self, context: StageContext) -> list[Reading]:
        """What is asked about every row of `splits`, in file order."""
        frame = read_prompts(context.path(self.prompts))
        asked: Any = frame[frame["split"].isin(self.splits)]
        said = self._said(context, asked["row_id"].tolist())
        fit = _Fit(self, window_of(self.model, context))
        readings = []
        for split, row_id, whole in zip(
            asked["split"], asked["row_id"], asked["prompt"], strict=True
        ):
            turns, prompt = said[row_id]
            if prompt is None:
                prompt = self.prompts.task.without_passage(whole) if self.hide_passage else whole
            orders = (turns, exchanged(turns)) if self.swap else (turns,)
            texts = tuple(fit(prompt, order) for order in orders)
            readings.append(Reading(split, row_id, orders, texts))
        if fit.num_cut:
            log.warning(
                "stage=%s %d of %d prompts were cut to fit %d tokens",
                self.name,
                fit.num_cut,
                fit.num_asked,
                fit.window.max_tokens,
            )
        return readings

    def _said(
        self, context: StageContext, row_ids: list[str]
    ) -> dict[str, tuple[tuple[Turn, ...], str | None]]:
        """For each row the turns about it, and what is read in place of its prompt, if anything."""
        if self.transcripts is None:
            return dict.fromkeys(row_ids, ((), None))
        frame = read_transcripts(context.path(self.transcripts))
        prompts = frame[PROMPT] if PROMPT in frame.columns else [None] * len(frame)
        found = {
            row_id: (self._turns(text, turns), prompt)
            for row_id, text, turns, prompt in zip(
                frame["row_id"], frame["text"], frame["turns"], prompts, strict=True
            )
        }
        if missing := [row_id for row_id in row_ids if row_id not in found]:
            raise ValueError(
                f"{len(missing)} of {len(row_ids)} rows have no transcript; first: {missing[0]}"
            )
        return found

    def _turns(self, text: str, spoken: str) -> tuple[Turn, ...]:
        """The turns that are read, from their JSON; a text that is read as it is, is one turn."""
        if self.turn_templates is None:
            return (_text(text),)
        turns = read_turns(spoken)
        if self.rounds == "all":
            return turns
        last = max((turn.round for turn in turns), default=0)
        return tuple(turn for turn in turns if turn.round == last)

    async def _judgements(
        self, readings: Sequence[Reading], context: StageContext
    ) -> dict[str, Judgement]:
        """What the judge makes of every reading, by its name."""
        # Orders that read the same are asked once.
        prompts = {name: text for reading in readings for name, text in reading.distinct.items()}
        client, path = context.clients[model_key(self.model)], context.output_dir / FINISHED_FILE
        if self.how == "scores":
            scores = await ask_scores(client, prompts, self.templates.labels, context, path)
            found = {name: Judgement(_softmax(np.array(scores[name]))) for name in prompts}
        else:
            sampling = Sampling(temperature=0.0, max_tokens=self.templates.verdict_tokens)
            seeds = dict.fromkeys(prompts, 0)
            written = await ask_texts(client, prompts, sampling, seeds, context, path)
            found = {
                name: self._stated(written[name].text, turns)
                for reading in readings
                for name, turns in zip(reading.distinct, reading.orders, strict=False)
            }
        for reading in readings:
            for name in reading.names(self.swap):
                found.setdefault(name, found[reading.row_id])
        return found

    def _stated(self, text: str, turns: Sequence[Turn]) -> Judgement:
        """A written verdict; even odds where it names no class, or a side that said nothing."""
        verdict, num_classes = self.templates.parse(text), len(self.templates.labels)
        label = verdict.label
        if verdict.side:
            positions = {turn.side: turn.position for turn in turns}
            label = {"correct": 1, "incorrect": 0}.get(positions.get(verdict.side, ""))
        if label is None:
            return Judgement(np.full(num_classes, 1 / num_classes), text, is_valid=False)
        probabilities_C = np.full(num_classes, SMALLEST_PROBABILITY)
        probabilities_C[label] = 1 - SMALLEST_PROBABILITY * (num_classes - 1)
        return Judgement(probabilities_C, text)

    def _word(self, label: int) -> str:
        """A class as `verdicts.parquet` names it."""
        return ("incorrect", "correct")[label] if len(self.templates.labels) == 2 else str(label)


class _Fit:
    """Renders prompts so that they fit, and counts those that were cut."""

    def __init__(self, stage: Judged, window: Window) -> None:
        self.window = window
        self.num_asked = self.num_cut = 0
        self._stage = stage
        self._written = stage.how == "verdict"
        self._num_after = stage.templates.verdict_tokens if self._written else 0
        # A label is counted where it stands: it may share a token with what it follows.
        self._label = (
            ""
            if self._written
            else max(stage.templates.labels, key=lambda label: window.count("." + label))
        )

    def __call__(self, prompt: str, turns: Sequence[Turn]) -> str:
        """The prompt of one reading."""
        turn_templates = self._stage.turn_templates or PLAIN
        limit = self.window.max_tokens

        def measure(transcript: str) -> int:
            return self.window.count(self._with_label(prompt, transcript)) + self._num_after

        self.num_asked += 1
        transcript = turn_templates.render(turns)
        if measure(transcript) <= limit:
            return self._render(prompt, transcript)
        self.num_cut += 1
        try:
            cut = turn_templates.render(turns, max_length=limit, measure=measure)
        except ServingInputError:
            whole = self.window.without_beginning(
                prompt, lambda text: self._with_label(text, ""), self._num_after
            )
            return whole.removesuffix(self._label)
        return self._render(prompt, cut)

    def _with_label(self, prompt: str, transcript: str) -> str:
        return self._render(prompt, transcript) + self._label

    def _render(self, prompt: str, transcript: str) -> str:
        task = self._stage.prompts.task
        row = task.with_transcript(prompt, transcript) if transcript else prompt
        return self._stage.templates.render(row, written=self._written)


def exchanged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """A transcript with the sides exchanged.

    A becomes B and B becomes A, also where an argument calls a debater by name. Within a round,
    whose speakers did not read each other, A comes first again; rounds stay in order.
    """
    renamed = [
        replace(turn, side=_OTHER_SIDE[turn.side], text=_renamed(turn.text)) for turn in turns
    ]
    rounds = groupby(renamed, key=lambda turn: turn.round)
    return tuple(
        turn for _, spoken in rounds for turn in sorted(spoken, key=lambda turn: turn.side)
    )


def _renamed(text: str) -> str:
    return re.sub(
        r"\b([Dd]ebater|[Cc]onsultant) ([AB])\b",
        lambda found: f"{found[1]} {'B' if found[2] == 'A' else 'A'}",
        text,
    )


def _text(text: str) -> Turn:
    """A text that nobody in particular said."""
    return Turn(
        side="A",
        position="",
        text=text,
        num_tokens=0,
        finish_reason="",
        seed=0,
        model="",
        model_digest="",
    )


def _softmax(scores_C: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of log-scores, none of them 0."""
    probabilities_C = np.exp(scores_C - np.logaddexp.reduce(scores_C))
    return np.maximum(probabilities_C, SMALLEST_PROBABILITY)
