"""Token ids of a task: each text as the tokenizer cuts it, options beside each other."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sweeps.store import ArtifactStore
from tests.w2s.stages.toy_task import ToyTask, run, save_model, tokenizer, tokens_of
from w2s.models.source import PretrainedModel
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import Prompts
from w2s.stages.tokens import Tokens, TokenTable, read_tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PretrainedModel:
    return save_model(tmp_path_factory.mktemp("model"))


class Debates(Stage):
    """Stands for debates."""


def texts_of(table: TokenTable) -> list[str]:
    rows = table.rows
    return [
        str(tokenizer().decode(rows.ids[int(start) : int(start) + int(length)]))
        for start, length in zip(rows.starts, rows.lengths, strict=True)
    ]


@pytest.mark.parametrize("options", [False, True])
def test_every_text_comes_back(store: ArtifactStore, model: PretrainedModel, options: bool) -> None:
    stage = tokens_of(model, options)
    table = read_tokens(run(store, stage))
    data = ToyTask(options=options).load()
    rows = [row for split in data.rows.values() for row in split]
    assert table.index["row_id"].tolist() == [row.row_id for row in rows]
    expected = [text for row in rows for text in row.options or (row.prompt,)]
    assert texts_of(table) == expected
    assert len(table.rows) == len(rows)


def test_some_rows_keep_all_their_options(store: ArtifactStore, model: PretrainedModel) -> None:
    table = read_tokens(run(store, tokens_of(model, options=True)))
    part = table.where((table.index["split"] == "val").to_numpy())
    expected = [text for row in ToyTask(options=True).load().rows["val"] for text in row.options]
    assert texts_of(part) == expected
    assert part.rows.ids.data_ptr() == table.rows.ids.data_ptr()


def test_a_long_text_loses_its_beginning(store: ArtifactStore, model: PretrainedModel) -> None:
    whole, short = (
        texts_of(read_tokens(run(store, Tokens(model=model, prompts=prompts, max_length=length))))
        for prompts in [Prompts(task=ToyTask())]
        for length in (1024, 2)
    )
    assert short == [" ".join(text.split()[-2:]) for text in whole]


def test_ids_are_small_on_disk_and_in_memory(store: ArtifactStore, model: PretrainedModel) -> None:
    assert read_tokens(run(store, tokens_of(model))).rows.ids.dtype == torch.int32


def test_debates_are_joined_by_id_and_none_may_lack(
    store: ArtifactStore, model: PretrainedModel, tmp_path: Path
) -> None:
    prompts = Prompts(task=ToyTask())
    stage = Tokens(model=model, prompts=prompts, transcripts=Debates())
    frame = pd.read_parquet(run(store, prompts) / "prompts.parquet")[["split", "row_id"]]
    words = ["a" if int(row_id.rpartition("-")[2]) % 2 else "b" for row_id in frame["row_id"]]
    debates = frame.assign(text=words, turns="[]").iloc[::-1]
    inputs = {prompts.key: store.local(prompts), Debates().key: tmp_path / "debates"}
    for name in ("debates", "all", "some"):
        (tmp_path / name).mkdir()
    debates.to_parquet(tmp_path / "debates" / "transcripts.parquet")
    stage.run(StageContext(output_dir=tmp_path / "all", inputs=inputs))
    table = read_tokens(tmp_path / "all")
    assert [text.split()[-1] for text in texts_of(table)] == words

    debates.iloc[3:].to_parquet(tmp_path / "debates" / "transcripts.parquet")
    with pytest.raises(ValueError, match="3 rows have no transcript"):
        stage.run(StageContext(output_dir=tmp_path / "some", inputs=inputs))


def test_the_environment_is_left_as_it_was(
    store: ArtifactStore, model: PretrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "sometimes")
    run(store, tokens_of(model))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "sometimes"
    assert np.all(read_tokens(store.local(tokens_of(model))).rows.lengths > 0)
