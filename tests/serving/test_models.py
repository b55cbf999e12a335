import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.errors import CompletionFailed, ServingInputError, TransientFailure
from serving.howto import describe
from serving.messages import Sampling
from serving.models import (
    Adapter,
    Endpoint,
    Placement,
    ServedModel,
    check_adapter_files,
    check_servable,
    on_vllm,
)


def folder(path: Path, **config: int | str) -> ServedModel:
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


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused_with_what_to_do(tmp_path: Path, pickle: str):
    model = folder(tmp_path, head_dim=32)
    (tmp_path / "model.safetensors").rename(tmp_path / pickle)
    with pytest.raises(
        ServingInputError, match=rf"{pickle} may run code .* never loaded: convert it"
    ):
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
        [
            Endpoint("big", "d", "http://h:1/big/v1", "a"),
            Endpoint("t", "d", "http://h:1/base/v1", "b", task="classify"),
        ],
        counted=["big"],
    )
    assert "big  http://h:1/big/v1" in text
    assert "t    http://h:1/base/classify" in text
    assert "curl http://h:1/base/classify" in text
    assert '{"model": "t", "input": ["...", "..."]}' in text
    assert text.endswith("Prometheus metrics: http://h:1/big/metrics")
    lines = text.splitlines()
    start = lines.index("from openai import OpenAI")
    compile("\n".join(lines[start : start + 4]), "example", "exec")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_gpus": 0.5, "tensor_parallel": 2}, r"num_gpus = 0.5 shares a GPU and tensor_par"),
        ({"num_gpus": 2}, r"found 2; to spread a model over GPUs set tensor_parallel = 2"),
        ({"num_gpus": 0, "tensor_parallel": 2}, r"tensor_parallel = 2 needs GPUs"),
        ({"num_gpus": 0.5, "gpu_memory_utilization": 0.9}, r"0.9 is more than num_gpus = 0.5"),
        ({"num_replicas": 2, "max_replicas": 3}, r"num_replicas and max_replicas exclude"),
        ({"min_replicas": 4, "max_replicas": 3}, r"min_replicas 4 is above max_replicas 3"),
        ({"min_replicas": 2}, r"min_replicas belongs to autoscaling"),
        ({"max_adapter_rank": 48}, r"max_adapter_rank"),
    ],
)
def test_placement_that_cannot_be_is_refused(fields: dict[str, float], message: str):
    with pytest.raises(ValidationError, match=message):
        Placement.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "share", "needs", "words"),
    [
        ({}, 0.9, {}, "1 replica on the CPU, 1 thread(s), 1 GiB cache"),
        ({"num_gpus": 1}, 0.9, {"GPU": 1}, "1 replica with 1 GPU"),
        (
            {"num_gpus": 0.5, "num_replicas": 2},
            0.45,
            {"GPU": 0.5},
            "2 replicas, each with 0.5 GPU (45% of its memory)",
        ),
        (
            {"num_gpus": 1, "tensor_parallel": 4, "max_replicas": 3, "num_cpus": 2},
            0.9,
            {"GPU": 4, "CPU": 8},
            "1 to 3 replicas, each with 4 GPUs (tensor parallel)",
        ),
        (
            {"num_gpus": 1, "gpu_memory_utilization": 0.7},
            0.7,
            {"GPU": 1},
            "1 replica with 1 GPU",
        ),
    ],
)
def test_placement_says_what_a_replica_takes(
    fields: dict[str, float], share: float, needs: dict[str, float], words: str
):
    placement = Placement.model_validate(fields)
    assert placement.gpu_memory_share == pytest.approx(share)
    assert placement.per_replica == needs
    assert placement.describe() == words


def test_tensor_parallel_must_divide_the_heads(tmp_path: Path):
    model = folder(tmp_path, hidden_size=384, num_attention_heads=12)
    check_servable(model, Placement(num_gpus=1, tensor_parallel=4))
    with pytest.raises(ServingInputError, match=r"12 attention heads .* = 8 .* 1, 2, 3, 4, 6, 12"):
        check_servable(model, Placement(num_gpus=1, tensor_parallel=8))
    with pytest.raises(ServingInputError, match=r"tensor_parallel = 4 needs GPUs"):
        check_servable(model, Placement(tensor_parallel=4))


def adapter_folder(path: Path, rank: int, *, head: bool = True) -> Adapter:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (path / "adapter_model.safetensors").write_bytes(b"")
    if head:
        (path / "head.safetensors").write_bytes(b"")
    return Adapter(name=path.name, path=str(path))


def test_adapter_that_does_not_fit_is_refused(tmp_path: Path):
    base = folder(tmp_path, head_dim=32, model_type="llama")
    small = adapter_folder(tmp_path / "small", 8)
    large = adapter_folder(tmp_path / "large", 128)
    bare = adapter_folder(tmp_path / "bare", 8, head=False)

    def with_adapter(adapter: Adapter, task: str = "classify") -> ServedModel:
        return ServedModel.model_validate({**dict(base), "adapters": (adapter,), "task": task})

    check_servable(with_adapter(small), Placement())
    with pytest.raises(ServingInputError, match=r"'large' .* has rank 128; .* max_adapter_rank"):
        check_servable(with_adapter(large), Placement())
    check_servable(with_adapter(large), Placement(max_adapter_rank=128))
    with pytest.raises(ServingInputError, match=r"'bare': .* has no head.safetensors"):
        check_servable(with_adapter(bare), Placement())
    check_servable(with_adapter(bare, "generate"), Placement())


def test_pickled_adapter_is_refused(tmp_path: Path):
    adapter = adapter_folder(tmp_path / "a", 8)
    check_adapter_files(adapter, "classify")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ServingInputError, match=r"no adapter_model\.safetensors; .*\.bin may run"):
        check_adapter_files(adapter, "classify")


def test_adapters_of_a_type_that_vllm_does_not_adapt_are_refused(tmp_path: Path):
    base = folder(tmp_path, head_dim=32, model_type="gpt2")
    model = base.model_copy(update={"adapters": (adapter_folder(tmp_path / "a", 8),)})
    with pytest.raises(ServingInputError, match=r"no adapters on a gpt2 model; .* llama"):
        check_servable(model, Placement())


@pytest.mark.parametrize(
    ("config", "num_gpus", "vllm"),
    [
        ({"model_type": "llama", "head_dim": 32}, 0, True),
        ({"model_type": "llama", "head_dim": 16}, 0, False),
        ({"model_type": "llama", "head_dim": 16}, 1, True),
        ({"model_type": "gpt2", "n_embd": 64, "n_head": 2}, 0, True),
        ({"model_type": "gpt_neox", "head_dim": 32}, 1, False),
        ({"model_type": "distilbert"}, 1, False),
    ],
)
def test_classifiers_that_vllm_cannot_run_are_left_to_transformers(
    tmp_path: Path, config: dict[str, int | str], num_gpus: int, vllm: bool
):
    model = folder(tmp_path, **config)
    assert on_vllm(model, Placement())
    classifier = model.model_copy(update={"task": "classify"})
    assert on_vllm(classifier, Placement(num_gpus=num_gpus)) is vllm


def test_endpoint_through_an_adapter_keeps_the_replicas():
    base = Endpoint("b", "d", "http://h:1/b/v1", "llm-b", "b")
    through = base.through(Adapter(name="x", path="p", digest="e"))
    assert (through.model, through.digest, through.app) == ("x", "e", "llm-b")
    assert through.root_url == "http://h:1/b"
