"""What stages of the `serve` lane ask of a model: scores of choices, or texts.

Answers are appended to a file as they come, so an attempt after a crash asks only for what is
missing. Every question has a name, such as its row's id; answers are kept under it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.client import CompletionClient, Scores
from serving.messages import Completion, Sampling
from w2s.stages.base import StageContext
from w2s.stages.resume import appending, finished_lines

NOTHING: Mapping[str, Any] = {}


async def ask_scores(
    client: CompletionClient,
    prompts: Mapping[str, str],
    choices: Sequence[str],
    context: StageContext,
    path: Path,
    notes: Mapping[str, Mapping[str, Any]] = NOTHING,
) -> dict[str, Scores]:
    """How likely each choice is after each prompt.

    Args:
        client: of the model.
        prompts: by name.
        choices: texts that may come next.
        context: of the stage, for its progress.
        path: file the answers are appended to.
        notes: what else is written down with an answer, by name.

    Returns:
        Log-probabilities of the choices, in nats, by name.
    """
    done: dict[str, Scores] = {row["row_id"]: tuple(row["scores"]) for row in finished_lines(path)}
    waiting = [name for name in prompts if name not in done]
    with appending(path) as append:

        def finished(index: int, scores: Scores) -> None:
            name = waiting[index]
            done[name] = scores
            append({"row_id": name, "scores": scores, **notes.get(name, {})})
            context.progress(len(done), len(prompts), {})

        await client.score([prompts[name] for name in waiting], choices, finished)
    return done


async def ask_texts(
    client: CompletionClient,
    prompts: Mapping[str, str],
    sampling: Sampling,
    seeds: Mapping[str, int],
    context: StageContext,
    path: Path,
) -> dict[str, Completion]:
    """What the model writes after each prompt.

    Args:
        client: of the model.
        prompts: by name.
        sampling: how.
        seeds: by name.
        context: of the stage, for its progress.
        path: file the answers are appended to; it may hold others.

    Returns:
        Completions by name.
    """
    done: dict[str, Completion] = {}
    for row in finished_lines(path):
        if (name := row.pop("row_id")) in prompts:
            done[name] = Completion(**row)
    waiting = [name for name in prompts if name not in done]
    with appending(path) as append:

        def finished(index: int, completion: Completion) -> None:
            name = waiting[index]
            done[name] = completion
            append({"row_id": name, **asdict(completion)})
            context.progress(len(done), len(prompts), {})

        texts = [prompts[name] for name in waiting]
        await client.complete(texts, sampling, [seeds[name] for name in waiting], finished)
    return done
