"""What a model is asked to write about each row, besides debates, left as transcripts.

`write_until` asks, and asks again where a text will not do; `leave_transcripts` writes the artifact
that every reader of transcripts takes: a text with one turn, which defends nothing.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from serving.client import CompletionClient
from serving.debate.prompts import DebatePrompts
from serving.debate.types import Turn
from serving.messages import Completion, Sampling, seed_of
from w2s.stages.asking import ask_texts
from w2s.stages.base import StageContext
from w2s.stages.models import Model, model_key
from w2s.stages.transcripts import TRANSCRIPTS_FILE
from w2s.templates import WritingPrompts


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
