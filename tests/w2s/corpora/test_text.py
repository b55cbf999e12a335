import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from w2s.corpora import _packed, text
from w2s.corpora.base import NO_TARGET, RowGroup
from w2s.corpora.text import TextCorpus
from w2s.errors import UserError
from w2s.models.architecture import Architecture
from w2s.training.parallel import Replicas
from w2s.training.pretraining import pretrain

ANIMALS = ("owl", "hen", "fox", "elk", "carp", "newt", "wren", "toad")
PLACES = ("barn", "river", "forest", "meadow", "cellar", "marsh")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 distinct sentences as a table with a column of text and a column of lists."""
    rows = [
        {"sentence": f"The {animal} lives in the {place}.", "words": [animal, place]}
        for animal, place in itertools.product(ANIMALS, PLACES)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"question": "the NEWT, lives in"})
        + "\n"
        + json.dumps({"question": "owl"})
        + "\n"
    )
    return tmp_path


def corpus(folder: Path, template: str = "{sentence}", **fields: object) -> TextCorpus:
    return TextCorpus.model_validate(
        {
            "sources": [{"path": str(folder), "template": template}],
            "vocabulary_size": 512,
            "sequence_length": 16,
            "batch_size": 4,
            "num_tokens": 640,
            **fields,
        }
    )


def updates(corpus: TextCorpus, number: int, seed: int = 0) -> list[RowGroup]:
    (phase,) = corpus.curriculum(corpus.tokenizer())
    groups = list(itertools.islice(phase.updates(seed), number))
    assert all(len(update) == 1 for update in groups)
    return [update[0] for update in groups]


def reading(spec: TextCorpus) -> _packed.Reading:
    return spec.reading()


def test_the_tokenizer_gives_back_any_text(folder: Path) -> None:
    tokenizer = corpus(folder).tokenizer()
    for words in ("The owl lives.", "  naïve Ωmega 漢字\n\ttabs", "<b>&amp;</b> 3.14"):
        assert tokenizer.decode(tokenizer(words)["input_ids"]) == words
    assert tokenizer.eos_token == tokenizer.bos_token == _packed.END_OF_TEXT
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_tokenizer_is_the_same_each_time_it_is_trained(folder: Path) -> None:
    first = corpus(folder).tokenizer().get_vocab()
    _packed._trained.cache_clear()
    assert corpus(folder, num_tokens=64).tokenizer().get_vocab() == first


def test_the_tokenizer_loads_from_its_folder(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = corpus(folder).tokenizer()
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    sentence = "The wren lives in the marsh."
    assert loaded(sentence)["input_ids"] == tokenizer(sentence)["input_ids"]
    assert (loaded.eos_token, loaded.pad_token) == (_packed.END_OF_TEXT, _packed.PADDING)


def test_targets_are_the_tokens_that_follow(folder: Path) -> None:
    for group in updates(corpus(folder), 3):
        assert group.input_ids_BT.shape == (4, 16)
        inputs, targets = group.input_ids_BT.flatten(), group.targets_BT.flatten()
        assert torch.equal(inputs[1:], targets[:-1])
        assert NO_TARGET not in targets


def test_one_pass_reads_whole_documents_with_end_marks(folder: Path) -> None:
    spec = corpus(folder)
    tokenizer = spec.tokenizer()
    tokens = torch.cat([group.input_ids_BT.flatten() for group in updates(spec, 5)])
    documents = str(tokenizer.decode(tokens)).split(_packed.END_OF_TEXT)
    sentences = set(pd.read_parquet(folder / "train.parquet")["sentence"])
    assert len(documents) > 20
    assert set(documents[:-1]) <= sentences
    assert len(set(documents[:-1])) == len(documents[:-1])


def test_the_seed_orders_the_documents(folder: Path) -> None:
    spec = corpus(folder)
    first, again, other = (updates(spec, 1, seed)[0].input_ids_BT for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_budget_is_rounded_up_to_updates(folder: Path) -> None:
    assert corpus(folder, num_tokens=640).num_steps == 10
    assert corpus(folder, num_tokens=641).num_steps == 11
    spec = corpus(folder, num_tokens=641, warmup_fraction=0.2, cooldown_fraction=0.5)
    (phase,) = spec.curriculum(spec.tokenizer())
    assert (phase.max_steps, phase.warmup_steps, phase.cooldown_steps) == (11, 2, 6)
    assert phase.criterion is None


def test_a_budget_above_the_text_reads_it_again(folder: Path) -> None:
    spec = corpus(folder)
    tokens = len(_packed._encoded(reading(spec), spec.vocabulary_size).tokens)
    assert len(updates(spec, 3 * tokens // 64)) == 3 * tokens // 64


def test_documents_with_a_held_out_text_are_left_out(folder: Path) -> None:
    held_out = [{"path": str(folder), "split": "test", "template": "{question}"}]
    spec = corpus(folder, held_out=held_out)
    kept = _packed._documents(reading(spec))
    assert len(kept) == len(PLACES) * (len(ANIMALS) - 2)
    assert not [document for document in kept if "newt" in document or "owl" in document]
    assert spec.fingerprint() != corpus(folder).fingerprint()


def test_a_held_out_text_is_found_word_for_word_only() -> None:
    contains = text._finder(iter(["one two three four five six seven", "nine"]))
    assert contains("zero ONE, two three-four five six seven eight")
    assert contains("nine")
    assert not contains("one two three four five six eight")
    assert not contains("ninety one two three four five six")


def test_columns_of_lists_are_joined(folder: Path) -> None:
    spec = corpus(folder, template="{words}")
    assert _packed._documents(reading(spec))[0] == "owl barn"


def test_fingerprint_follows_the_files(folder: Path) -> None:
    before = corpus(folder).fingerprint()
    assert corpus(folder).fingerprint() == before
    pd.DataFrame({"sentence": ["Changed."], "words": [["x"]]}).to_parquet(folder / "train.parquet")
    assert corpus(folder).fingerprint() != before


def test_a_model_learns_the_text(folder: Path) -> None:
    rates = {"matrix": 0.02, "embedding": 0.03, "norm": 0.01}
    spec = corpus(folder, num_tokens=64 * 80, learning_rates=rates)
    tokenizer = spec.tokenizer()
    architecture = Architecture(
        hidden_size=32, num_layers=1, num_heads=1, head_dim=32, intermediate_size=64
    )
    model = architecture.build(tokenizer, seed=0)
    curve = pretrain(
        model,
        spec.curriculum(tokenizer),
        seed=0,
        replicas=Replicas(),
        on_progress=lambda *_: None,
    )
    losses = [point.metrics["loss"] for point in curve]
    # Nothing learnt is log 512 = 6.2 nats a token; all that can be is (log 8 + log 6) / 9 = 0.43.
    assert 0.3 < np.mean(losses[-2:]) < 0.6


def test_too_little_text_for_an_update_is_refused(folder: Path) -> None:
    spec = corpus(folder, batch_size=400)
    with pytest.raises(UserError, match=r"one update needs 6401; give it more text"):
        spec.curriculum(spec.tokenizer())


def test_text_that_is_all_held_out_is_refused(folder: Path) -> None:
    spec = corpus(folder, held_out=[{"path": str(folder), "template": "{sentence}"}])
    with pytest.raises(UserError, match="give no document: 48 were read"):
        spec.tokenizer()


def test_an_unknown_column_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="no column 'body'; found: sentence, words; needed: body"):
        corpus(folder, template="{body}").tokenizer()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "no column"}, "names no column"),
        ({"sources": []}, "at least 1 item"),
        ({"warmup_fraction": 0.7, "cooldown_fraction": 0.5}, "at most 1 together"),
    ],
)
def test_corpora_that_make_no_sense_are_refused(
    folder: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        corpus(folder, **fields)  # pyright: ignore[reportArgumentType]
