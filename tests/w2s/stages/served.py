"""For tests of stages of the `serve` lane: a model's files, and a run with scripted replies."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient, RequestPolicy
from serving.debate.types import Position, Side, Turn
from w2s.models.source import PretrainedModel
from w2s.stages.base import Stage, StageContext
from w2s.stages.models import model_key
from w2s.stages.transcripts import TRANSCRIPTS_FILE


def saved_model(folder: Path, num_positions: int) -> PretrainedModel:
    """A config and a tokenizer of words: all that such a stage reads of a model."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    LlamaConfig(max_position_embeddings=num_positions).save_pretrained(folder)
    return PretrainedModel(path=str(folder), fingerprint=f"toy-{num_positions}")


def run_served(
    stage: Any, folders: Mapping[str, Path], output: Path, transport: ScriptedTransport
) -> Path:
    """Run a stage, two prompts a request and one request at a time; returns its folder."""
    output.mkdir(exist_ok=True, parents=True)
    policy = RequestPolicy(prompts_per_request=2, max_requests_in_flight=1)
    clients = {model_key(model): BatchingClient(transport, policy) for model in stage.served_models}
    context = StageContext(output_dir=output, inputs=folders, clients=clients)
    asyncio.run(stage.run(context))
    return output


def turn(side: Side, position: Position, text: str, round: int = 0) -> Turn:
    """One speech."""
    return Turn(
        side=side,
        position=position,
        text=text,
        num_tokens=len(text.split()),
        finish_reason="stop",
        seed=0,
        model="m",
        model_digest="d",
        round=round,
    )


def write_transcripts(
    folder: Path, rows: Mapping[str, tuple[Turn, ...]], split: str = "test", text: str = "text"
) -> None:
    """A transcripts artifact of one split; every row has the same text beside its turns."""
    pd.DataFrame(
        {
            "split": split,
            "row_id": list(rows),
            "text": text,
            "turns": [json.dumps([asdict(turn) for turn in turns]) for turns in rows.values()],
        }
    ).to_parquet(folder / TRANSCRIPTS_FILE)


class Said(Stage):
    """Stands for a stage that leaves transcripts."""

    tag: str = ""
