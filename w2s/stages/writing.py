"""What a model is asked to write about each row, besides debates, left as transcripts.

`Written` is the base of the stages that do. `write_until` asks, and asks again where a text will
not do; `leave_transcripts` writes the artifact that every reader of transcripts takes: a text with
one turn, which defends nothing.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
from pydantic import Field

from serving.client import CompletionClient
from serving.debate.prompts import DebatePrompts
from serving.debate.types import Turn
from serving.messages import Completion, Sampling, seed_of
from w2s.stages.asking import ask_texts
from w2s.stages.base import Lane, Requests, Stage, StageContext
from w2s.stages.models import Model, model_key
from w2s.stages.transcripts import TRANSCRIPTS_FILE
from w2s.tasks.base import Task, shape_of
from w2s.templates import WritingPrompts
from w2s.types import SPLITS, Split

if TYPE_CHECKING:
    from pydantic import BaseModel

FINISHED_FILE = "texts.jsonl"


class Written(Stage):
    """A text by one model for every row, as transcripts; some rows may share theirs.

    A subclass has a field `templates`, and says what is asked.
    """

    lane: ClassVar[Lane] = "serve"

    model: Model
    """Model that writes."""
    max_attempts: int = Field(default=4, ge=1)
    """Texts drawn until one is not empty."""
    seed: int = Field(ge=0)
    """Of all that is drawn."""
    splits: tuple[Split, ...] = SPLITS
    """Whose rows are written about."""

    @property
    def task(self) -> Task:
        """The task of the rows."""
        raise NotImplementedError

    @property
    def writing(self) -> WritingPrompts:
        """What the model reads, and how readers see what it writes."""
        raise NotImplementedError

    @property
    def texts_shown(self) -> int:
        """Texts of a row's length in a prompt."""
        return 1

    @property
    def name(self) -> str:
        """Readable name."""
        return f"{self.kind}-{self.model.name.removeprefix('pretrain-')}-s{self.seed}"

    @property
    def served_models(self) -> "tuple[Stage | BaseModel, ...]":
        """The writer."""
        return (self.model,)

    def cost(self) -> float:
        """Estimated seconds on one core, at the rate of a small model."""
        return self._num_rows() / 400

    def requests(self) -> dict[str, Requests]:
        """Estimated requests: one a row, if no text is empty; few rows share a text."""
        number = self._num_rows()
        read = int(number * shape_of(self.task).num_tokens * self.texts_shown)
        written = number * self.writing.max_tokens
        return {model_key(self.model): Requests(number, read, written)}

    async def write(
        self, context: StageContext, frame: pd.DataFrame, prompts: Mapping[str, str]
    ) -> None:
        """Write `transcripts.parquet` (split, row_id, text, turns) for every row.

        Args:
            context: of the stage.
            frame: split and row_id of the rows of `splits`, and the `name` of each one's text.
            prompts: what is asked, by name.
        """
        written = await write_until(
            bool,
            context.clients[model_key(self.model)],
            prompts,
            sampling_of(self.writing),
            context,
            context.output_dir / FINISHED_FILE,
            what=self.kind,
            seed=self.seed,
            max_attempts=self.max_attempts,
        )
        leave_transcripts(context.output_dir, frame, written, self.writing, self.model)

    def _num_rows(self) -> int:
        num_rows = shape_of(self.task).num_rows
        return sum(num_rows[split] for split in self.splits)


def sampling_of(templates: WritingPrompts, max_tokens: int | None = None) -> Sampling:
    """How texts are drawn; `max_tokens` replaces that of the templates."""
    longest = max_tokens or templates.max_tokens
    return Sampling(
        temperature=templates.temperature,
        top_p=templates.top_p,
        max_tokens=longest,
        min_tokens=longest if templates.exact_length else 0,
        stop=templates.stop,
    )


async def write_until(
    good: Callable[[str], bool],
    client: CompletionClient,
    prompts: Mapping[str, str],
    sampling: Sampling,
    context: StageContext,
    path: Path,
    *,
    what: str,
    seed: int,
    max_attempts: int,
) -> dict[str, tuple[Completion, int]]:
    """A text for each prompt, drawn again with another seed until it is good.

    Args:
        good: whether a text will do; it gets the text without outer white space.
        client: of the model.
        prompts: by name.
        sampling: how.
        context: of the stage, for its progress.
        path: file the texts are appended to.
        what: kind of text, which is part of the seeds.
        seed: of all of them.
        max_attempts: texts drawn for a prompt at most; the last one is taken, good or not.

    Returns:
        The text and its seed by name.
    """
    found: dict[str, tuple[Completion, int]] = {}
    waiting = dict(prompts)
    for attempt in range(max_attempts):
        names = {f"{name}#{attempt}": name for name in waiting}
        seeds = {key: seed_of(what, seed, name, attempt) for key, name in names.items()}
        asked = {key: waiting[name] for key, name in names.items()}
        texts = await ask_texts(client, asked, sampling, seeds, context, path)
        found |= {name: (texts[key], seeds[key]) for key, name in names.items()}
        waiting = {
            name: prompt
            for name, prompt in waiting.items()
            if not good(found[name][0].text.strip())
        }
        if not waiting:
            break
    return found


def leave_transcripts(
    folder: Path,
    frame: pd.DataFrame,
    written: Mapping[str, tuple[Completion, int]],
    templates: WritingPrompts,
    model: Model,
) -> None:
    """Write `transcripts.parquet` (split, row_id, text, turns), one turn a row.

    Args:
        folder: artifact folder.
        frame: split and row_id of the rows, and `name`, under which each one's text is found.
        written: text and seed by name.
        templates: how a text is shown.
        model: who wrote.
    """
    turns: dict[str, Turn] = {
        name: Turn(
            side="A",
            position="",
            text=completion.text.strip(),
            num_tokens=completion.num_tokens,
            finish_reason=completion.finish_reason,
            seed=seed,
            model=model.name,
            model_digest=model_key(model),
        )
        for name, (completion, seed) in written.items()
    }
    shown = shown_as(templates)
    own = [turns[name] for name in frame["name"]]
    pd.DataFrame(
        {
            "split": frame["split"].tolist(),
            "row_id": frame["row_id"].tolist(),
            "text": [shown.render([turn]) for turn in own],
            "turns": [json.dumps([asdict(turn)], ensure_ascii=False) for turn in own],
        }
    ).to_parquet(folder / TRANSCRIPTS_FILE, index=False)


def shown_as(templates: WritingPrompts) -> DebatePrompts:
    """How such a text is rendered for its readers."""
    return DebatePrompts(turn_template=templates.shown)
