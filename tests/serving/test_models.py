import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.errors import CompletionFailed, ServingInputError, TransientFailure
from serving.howto import describe
from serving.messages import Sampling
from serving.models import Endpoint, Placement, ServedModel, check_servable


def folder(path: Path, **config: int) -> ServedModel:
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer_config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    return ServedModel(name="m", path=str(path))


def test_head_size_that_cpu_kernels_lack_is_refused_on_the_cpu_only(tmp_path: Path):
    model = folder(tmp_path, hidden_size=96, num_attention_heads=6)
    with pytest.raises(ServingInputError, match=r"head_dim 16 .* 32, 64"):
        check_servable(model, Placement())
    check_servable(model, Placement(num_gpus=1))


def test_head_dim_of_the_config_goes_before_the_ratio(tmp_path: Path):
    check_servable(
        folder(tmp_path, hidden_size=96, num_attention_heads=6, head_dim=32), Placement()
    )


def test_folder_that_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(ServingInputError, match=r"has no config.json and no tokenizer_config.json"):
        check_servable(ServedModel(name="m", path=str(tmp_path)), Placement())
    with pytest.raises(ServingInputError, match=r"no folder"):
        check_servable(ServedModel(name="m", path=str(tmp_path / "nothing")), Placement())


def test_folder_without_weights_is_refused(tmp_path: Path):
    model = folder(tmp_path, head_dim=32)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ServingInputError, match=r"holds no weights"):
        check_servable(model, Placement())


def test_hub_id_is_left_to_the_hub():
    check_servable(ServedModel(name="pythia", path="EleutherAI/pythia-410m"), Placement())


def test_name_that_cannot_be_a_route_is_refused():
    with pytest.raises(ValidationError, match=r"name"):
        ServedModel(name="org/m", path="x")


def test_sampling_refuses_more_tokens_than_it_allows():
    with pytest.raises(ValidationError, match=r"min_tokens 8 is above max_tokens 7"):
        Sampling(max_tokens=7, min_tokens=8)


def test_errors_keep_what_they_carry_across_processes():
    import pickle

    error = pickle.loads(pickle.dumps(TransientFailure("busy", 2.0)))
    assert (str(error), error.retry_after_s) == ("busy", 2.0)
    assert isinstance(error, CompletionFailed)


def test_description_of_endpoints_shows_each_url_and_runs_as_python():
    text = describe(
        [Endpoint("big", "d", "http://h:1/big/v1", "a"), Endpoint("s", "d", "http://h:1/s/v1", "a")]
    )
    assert "big  http://h:1/big/v1" in text
    assert "s    http://h:1/s/v1" in text
    compile(text[text.index("from openai") :], "example", "exec")
