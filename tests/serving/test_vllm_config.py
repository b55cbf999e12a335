"""What Ray Serve and vLLM are told for GPUs, which the machine of the tests need not have."""

from typing import Any

import pytest

from serving.backends.vllm import engine_kwargs, llm_config
from serving.models import Adapter, Placement, ServedModel

MODEL = ServedModel(name="big", path="lab/big", revision="abc")
TEACHER = MODEL.model_copy(
    update={
        "task": "classify",
        "adapters": (Adapter(name="t0", path="/store/t0"),),
    }
)


def test_tensor_parallel_replicas_get_a_gpu_per_worker_and_a_fixed_number():
    config = llm_config(MODEL, Placement(num_gpus=1, tensor_parallel=2, num_replicas=3))
    assert config["accelerator_config"] == {"kind": "gpu"}
    assert config["placement_group_config"] == {"bundle_per_worker": {"CPU": 0.0, "GPU": 1.0}}
    assert config["engine_kwargs"]["tensor_parallel_size"] == 2
    assert config["engine_kwargs"]["gpu_memory_utilization"] == 0.9
    assert config["deployment_config"]["num_replicas"] == 3
    assert "autoscaling_config" not in config["deployment_config"]


def test_half_a_gpu_gets_half_of_its_memory():
    config = llm_config(MODEL, Placement(num_gpus=0.5))
    assert config["placement_group_config"] == {"bundle_per_worker": {"CPU": 0.0, "GPU": 0.5}}
    assert config["engine_kwargs"]["gpu_memory_utilization"] == 0.45


def test_autoscaling_goes_to_serve_in_place_of_a_number():
    config = llm_config(
        MODEL,
        Placement(num_gpus=1, min_replicas=2, max_replicas=6, target_ongoing_requests=4),
    )
    assert config["deployment_config"]["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 6,
        "target_ongoing_requests": 4,
    }
    assert "num_replicas" not in config["deployment_config"]


def test_classifier_pools_raw_float32_states_and_holds_adapters():
    kwargs = engine_kwargs(TEACHER, Placement(num_gpus=1, max_adapters=8, max_adapter_rank=16))
    told = {
        "runner": "pooling",
        "convert": "embed",
        "pooler_config": {"pooling_type": "LAST", "use_activation": False},
        "dtype": "float32",
        "revision": "abc",
        "enable_lora": True,
        "max_loras": 8,
        "max_lora_rank": 16,
    }
    assert told.items() <= kwargs.items()
    first = TEACHER.model_copy(update={"read_token": "first"})
    assert engine_kwargs(first, Placement())["pooler_config"]["pooling_type"] == "CLS"


def test_no_pickles_are_loaded_and_code_of_models_only_where_it_is_trusted():
    for model in (MODEL, TEACHER):
        kwargs = engine_kwargs(model, Placement())
        assert kwargs["load_format"] == "safetensors"
        assert kwargs["trust_remote_code"] is False
        trusted = model.model_copy(update={"trust_remote_code": True})
        assert engine_kwargs(trusted, Placement())["trust_remote_code"] is True


@pytest.mark.parametrize("metrics", [False, True])
def test_engines_count_only_when_asked(metrics: bool):
    kwargs: dict[str, Any] = engine_kwargs(MODEL, Placement(metrics=metrics))
    assert kwargs["disable_log_stats"] is not metrics


@pytest.mark.vllm
@pytest.mark.parametrize(
    "fields",
    [
        {"num_gpus": 1, "tensor_parallel": 2},
        {"num_gpus": 0.5, "num_replicas": 2},
        {"num_gpus": 1, "min_replicas": 2, "max_replicas": 6},
    ],
)
def test_ray_accepts_it_and_reserves_the_gpus(fields: dict[str, float]):
    from ray.serve.llm import LLMConfig

    placement = Placement.model_validate(fields)
    config = LLMConfig.model_validate(llm_config(MODEL, placement))
    engine: Any = config.get_engine_config()
    bundles = engine.placement_bundles
    assert [bundle["GPU"] for bundle in bundles] == [placement.num_gpus] * placement.tensor_parallel
    environment = engine.get_runtime_env_with_local_env_vars()["env_vars"]
    share = environment.get("VLLM_RAY_PER_WORKER_GPUS")
    assert share == ("0.5" if placement.num_gpus == 0.5 else None)


def test_configs_can_be_made_in_several_threads():
    from concurrent.futures import ThreadPoolExecutor

    from ray.serve._private.config import DeploymentConfig

    from serving.backends.vllm import _pickle_one_by_one

    def made(_: int) -> int | None:
        _pickle_one_by_one()
        return DeploymentConfig(num_replicas=2).num_replicas

    # Without it one in ten fails here.
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(made, range(800))) == {2}
