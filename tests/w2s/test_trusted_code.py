"""Models that bring code: run only where the sweep says so, and then in every stage."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from sweeps.cli import main
from sweeps.config import Rung, SpeakerEntry
from sweeps.servable import servable
from sweeps.store import ArtifactStore
from tests.w2s.own_code import bring_code
from tests.w2s.stages.toy_task import run, save_model, tokens_of, truth
from w2s.errors import UserError
from w2s.losses.xent import Xent
from w2s.models.classifier import load_backbone
from w2s.models.language_model import load_language_model
from w2s.models.source import PretrainedModel, num_parameters, require_decoder, resolve
from w2s.spec import digest
from w2s.stages.features import Features, read_features
from w2s.stages.finetune import Finetune
from w2s.stages.generative import GenerativeFinetune
from w2s.training.config import GenerativeConfig, TrainConfig

SCALE = 2.0
SWEEP = """
name = "trusting"
[task]
kind = "almanac"
[[ladder]]
name = "own"
model = "{folder}"
trust_remote_code = true
[[ladder]]
name = "known"
model = "{known}"
[[blocks]]
name = "pairs"
pairs = [["own", "known"]]
methods = ["naive"]
losses = ["xent"]
"""


@pytest.fixture
def known(tmp_path: Path) -> PretrainedModel:
    return save_model(tmp_path / "known")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """Left by the model's code."""
    return tmp_path / "it_ran"


@pytest.fixture
def model(tmp_path: Path, ran: Path) -> PretrainedModel:
    save_model(tmp_path / "own")
    bring_code(tmp_path / "own", ran, SCALE)
    return resolve(PretrainedModel(path=str(tmp_path / "own"), trust_remote_code=True))


def test_code_does_not_run_where_nobody_trusts_it(model: PretrainedModel, ran: Path) -> None:
    with pytest.raises(UserError, match="write `trust_remote_code = true` beside `model`"):
        resolve(PretrainedModel(path=model.path))
    for load in (num_parameters, load_backbone, load_language_model):
        with pytest.raises((UserError, ValueError), match="trust_remote_code"):
            load(model.path)
    assert not ran.exists()


def test_code_that_is_trusted_is_what_computes(
    model: PretrainedModel, known: PretrainedModel, ran: Path
) -> None:
    assert num_parameters(model.path, **model.load_options) == num_parameters(known.path)
    assert ran.exists()
    require_decoder(model, "this test")
    ids = torch.tensor([[1, 2, 3]])
    own = load_backbone(model.path, **model.load_options)(ids).last_hidden_state
    assert torch.equal(own, SCALE * load_backbone(known.path)(ids).last_hidden_state)


def test_code_that_is_trusted_is_part_of_the_key(model: PretrainedModel, ran: Path) -> None:
    bring_code(Path(model.path), ran, SCALE + 1)
    changed = resolve(PretrainedModel(path=model.path, trust_remote_code=True))
    assert digest(changed) != digest(model)
    assert not ran.exists()


def test_trust_is_in_a_key_only_where_there_is_some(known: PretrainedModel) -> None:
    trusting = known.model_copy(update={"trust_remote_code": True})
    assert "trust_remote_code" not in known.identity_fields()
    assert digest(trusting) != digest(known)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_another_repository_is_refused_before_any_runs(
    model: PretrainedModel, ran: Path, name: str
) -> None:
    path = Path(model.path) / name
    table = json.loads(path.read_text())
    table["auto_map"] = {**table.get("auto_map", {}), "AutoOther": "somebody/else--own.Other"}
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"another repository \(somebody/else\)"):
        resolve(PretrainedModel(path=model.path, trust_remote_code=True))
    assert not ran.exists()


def test_stages_that_read_what_a_trusted_model_became_trust_it_too(
    store: ArtifactStore, model: PretrainedModel
) -> None:
    finetune = Finetune(
        model=model,
        tokens=tokens_of(model),
        labels=truth("strong_train"),
        train_split="strong_train",
        loss=Xent(),
        train=TrainConfig(learning_rate=1e-3, epochs=1, batch_size=8),
        seed=0,
        save_weights=True,
    )
    run(store, finetune)
    features = Features(source=finetune, tokens=finetune.tokens)
    assert len(read_features(run(store, features)).index) > 0
    read_on = GenerativeFinetune(
        model=model,
        tokens=finetune.tokens,
        train=GenerativeConfig(learning_rate=1e-3, epochs=1, batch_size=8),
        seed=0,
    )
    run(store, finetune.model_copy(update={"model": read_on, "save_weights": False}))
    for stage in (finetune, read_on, model):
        assert servable(stage, store, lambda key: pytest.fail(key)).model.trust_remote_code


def test_plan_names_the_code_that_will_run(
    model: PretrainedModel,
    known: PretrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(SWEEP.format(folder="own", known="known"))
    assert main(["plan", "sweep.toml"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "own: Python code of own (own.py, scale.py) runs with your rights" in words
    assert "known: Python code" not in words


def test_trust_in_what_brings_no_code_is_refused() -> None:
    architecture = {"hidden_size": 16, "intermediate_size": 16}
    corpus = {"kind": "almanac", "rare_share": 0.1, "custom_share": 0.1}
    rung = {"name": "a", "architecture": architecture, "corpus": corpus}
    assert not Rung.model_validate(rung).trust_remote_code
    with pytest.raises(ValidationError, match="is for a `model`"):
        Rung.model_validate({**rung, "trust_remote_code": True})
    remote = {"name": "a", "model": "b", "base_url": "http://127.0.0.1:1"}
    with pytest.raises(ValidationError, match="leave it out beside `base_url`"):
        SpeakerEntry.model_validate({**remote, "trust_remote_code": True})
    assert SpeakerEntry(name="a", model="b", trust_remote_code=True).base_url is None
