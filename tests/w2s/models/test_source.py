"""Models from outside: what counts as one, and what its fingerprint depends on."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from transformers import AutoModelForCausalLM, BertConfig, BertModel, GPT2Config, LlamaConfig

from w2s.errors import UserError
from w2s.models.source import PretrainedModel, num_parameters, resolve
from w2s.spec import digest

LLAMA = LlamaConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=32,
    tie_word_embeddings=False,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-llama"
    AutoModelForCausalLM.from_config(LLAMA).save_pretrained(path)
    (path / "tokenizer.json").write_text("{}")
    return path


class ConnectError(Exception):
    """What an HTTP client raises when nobody answers."""


def unreachable(*_: object, **__: object) -> None:
    raise ConnectError("no route to host")


def test_folder_gets_a_fingerprint(folder: Path) -> None:
    found = resolve(PretrainedModel(path=str(folder)))
    assert found.path == str(folder)
    assert len(found.fingerprint) == 16
    assert found.name == "tiny-llama"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_fingerprint_follows_content(folder: Path, name: str) -> None:
    before = resolve(PretrainedModel(path=str(folder)))
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert resolve(PretrainedModel(path=str(folder))).fingerprint != before.fingerprint


def test_fingerprint_does_not_follow_place_or_notes(folder: Path, tmp_path: Path) -> None:
    before = resolve(PretrainedModel(path=str(folder))).fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    (moved / "README.md").write_text("a copy")
    assert resolve(PretrainedModel(path=str(moved))).fingerprint == before


def test_fingerprint_is_identity(folder: Path) -> None:
    plain = PretrainedModel(path=str(folder))
    assert digest(plain) != digest(resolve(plain))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"not a model folder: no config\.json; found"),
        ("model.safetensors", "no safetensors weights; found config.json"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_folder_that_lacks_a_part_is_refused(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=message):
        resolve(PretrainedModel(path=str(folder)))


def test_pickled_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is pickled and is never loaded"):
        resolve(PretrainedModel(path=str(folder)))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_that_only_its_own_code_can_read_is_refused(folder: Path, name: str) -> None:
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    known = json.loads((folder / name).read_text()) if name == "config.json" else {}
    (folder / name).write_text(json.dumps({**known, **own, "tokenizer_class": "Mine"}))
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match=rf"needs code of its own \({name} .*found mine\.py"):
        resolve(PretrainedModel(path=str(folder)))


def test_code_that_nothing_needs_does_not_matter(folder: Path) -> None:
    before = resolve(PretrainedModel(path=str(folder))).fingerprint
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    assert resolve(PretrainedModel(path=str(folder))).fingerprint == before


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "lab/other"}')
    with pytest.raises(UserError, match="holds an adapter"):
        resolve(PretrainedModel(path=str(folder)))


def test_weights_outside_the_folder_are_refused(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "../other/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names '\.\./other/model\.safetensors'"):
        resolve(PretrainedModel(path=str(folder)))


@pytest.mark.parametrize("path", ["./no/such/folder", "/no/such/folder", "a/b/c"])
def test_place_without_a_folder_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="found nothing there"):
        resolve(PretrainedModel(path=path))


def test_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="found a file"):
        resolve(PretrainedModel(path=str(folder / "config.json")))


def test_revision_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="revision"):
        resolve(PretrainedModel(path=str(folder), revision="step1000"))


def test_hub_id_without_a_hub_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"lab/tiny.*hub does not answer \(ConnectError\)"):
        resolve(PretrainedModel(path="lab/tiny"))


def test_unknown_hub_id_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        response: Any = SimpleNamespace(headers={}, request=None)
        raise RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(HfApi, "model_info", unknown)
    with pytest.raises(UserError, match=r"lab/tiny.*the hub has none"):
        resolve(PretrainedModel(path="lab/tiny"))


def hub_files(commit: str, *names: str) -> SimpleNamespace:
    return SimpleNamespace(sha=commit, siblings=[SimpleNamespace(rfilename=name) for name in names])


def test_hub_id_is_pinned_to_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("README.md", "config.json", "model.safetensors", "tokenizer.json")
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: hub_files("d" * 40, *names))
    found = resolve(PretrainedModel(path="lab/tiny", revision="main"))
    assert found.revision == "d" * 40
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: hub_files("f" * 40, *names))
    later = resolve(PretrainedModel(path="lab/tiny", revision="main"))
    assert later.fingerprint != found.fingerprint


def test_hub_id_without_safetensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("config.json", "pytorch_model.bin", "tokenizer.json")
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: hub_files("d" * 40, *names))
    with pytest.raises(UserError, match=r"lab/tiny.*no safetensors weights"):
        resolve(PretrainedModel(path="lab/tiny"))


def test_cached_snapshot_is_the_same_model_as_on_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: hub_files("e" * 40, *names))
    online = resolve(PretrainedModel(path="lab/tiny"))
    snapshot = tmp_path / "cache" / ("e" * 40)
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    assert resolve(PretrainedModel(path="lab/tiny")) == online


def test_parameters_are_counted_without_the_language_model_head(folder: Path) -> None:
    count = num_parameters(str(folder))
    layer = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16
    assert count.total == 40 * 16 + 2 * layer + 16
    assert count.embedding == 40 * 16
    assert count.non_embedding == 2 * layer + 16
    assert PretrainedModel(path=str(folder)).size() == count.non_embedding


def test_a_count_travels_with_its_model_and_is_no_part_of_it(folder: Path, tmp_path: Path) -> None:
    path = folder.rename(tmp_path / "counted")
    model = PretrainedModel(path=str(path), fingerprint="f")
    identity, dumped = digest([model]), model.model_dump()
    total = model.count.total
    path.rename(tmp_path / "elsewhere")
    sent = pickle.loads(pickle.dumps(model))
    assert sent.count.total == total
    assert (digest([sent]), sent.model_dump()) == (identity, dumped)
    assert sent == PretrainedModel(path=str(path), fingerprint="f")


def test_tables_of_positions_are_embeddings(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    config.save_pretrained(tmp_path)
    assert num_parameters(str(tmp_path)).embedding == 40 * 16 + 8 * 16


def test_poolers_are_not_counted(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
    )
    config.save_pretrained(tmp_path)
    without = BertModel(config, add_pooling_layer=False)
    assert num_parameters(str(tmp_path)).total == sum(p.numel() for p in without.parameters())


def test_unreadable_config_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    with pytest.raises(UserError, match="cannot read the shape"):
        num_parameters(str(tmp_path))


def test_counting_leaves_the_default_device_alone(folder: Path) -> None:
    num_parameters(str(folder))
    assert torch.zeros(1).device.type == "cpu"
