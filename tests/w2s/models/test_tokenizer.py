"""Tokenizers and longest inputs, as transformers has them, but without torch where that can be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, BertConfig, GPT2Config, RobertaConfig

from w2s.corpora.base import Corpus
from w2s.models.architecture import Architecture
from w2s.models.tokenizer import load_longest_input, load_tokenizer, longest_input
from w2s.spec import parse
from w2s.tasks.almanac import Almanac

TEXTS = ["yes", "is it so ?", "unseenword 12"]
LOADS = """
import sys
from w2s.models.tokenizer import load_longest_input, load_tokenizer
tokenizer = load_tokenizer(sys.argv[1])
print(tokenizer.get_vocab()["<pad>"], load_longest_input(sys.argv[1]), "torch" in sys.modules)
"""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A model that a sweep would have pretrained."""
    corpus = parse(Corpus, {"kind": "almanac", "rare_share": 0.5, "custom_share": 0.5})
    tokenizer = corpus.bind(Almanac()).tokenizer()
    architecture = Architecture(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)
    architecture.build(tokenizer, seed=0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_what_a_sweep_has_made_is_read_without_torch(made: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOADS, str(made)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["0", "64", "False"]


def test_tokenizer_is_the_one_that_transformers_finds(made: Path) -> None:
    ours, theirs = load_tokenizer(made), AutoTokenizer.from_pretrained(made)
    assert type(ours) is type(theirs)
    assert ours(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.model_max_length == theirs.model_max_length


@pytest.mark.parametrize("change", [{"model_type": "bert"}, {"auto_map": {"AutoConfig": "a.B"}}])
def test_other_models_are_left_to_transformers(
    change: dict, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    asked: list[object] = []

    def asked_for(location: str, **options: object) -> object:
        asked.append((location, options["trust_remote_code"]))
        return BertConfig(max_position_embeddings=7)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", asked_for)
    monkeypatch.setattr(AutoConfig, "from_pretrained", asked_for)
    load_tokenizer(made, trust_remote_code=True)
    assert load_longest_input(made) == 7
    assert asked == [(str(made), True), (str(made), False)]


def test_longest_input_that_a_config_does_not_write_down_is_its_class_s(
    made: Path, tmp_path: Path
) -> None:
    # transformers saves what differs from its defaults; that of a Llama is 2048.
    file = made / "config.json"
    told = json.loads(file.read_text())
    del told["max_position_embeddings"]
    file.write_text(json.dumps(told))
    assert load_longest_input(made) == 2048
    GPT2Config(n_positions=32).save_pretrained(tmp_path / "gpt2")
    assert load_longest_input(tmp_path / "gpt2") == 32


def test_longest_input_is_the_models_own() -> None:
    assert longest_input(GPT2Config(n_positions=32)) == 32
    # RoBERTa's first position is its padding id + 1.
    assert longest_input(RobertaConfig(max_position_embeddings=32, pad_token_id=1)) == 30
