"""What is served (`ServedModel`) and where and how (`Placement`); `Endpoint` is a model that is up.

Only `ServedModel` can matter to a result. `Placement` may change from machine to machine.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from serving.errors import ServingInputError
from serving.messages import ServingSpec

VLLM_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Attention head sizes that vLLM's CPU kernels take."""


class ServedModel(ServingSpec, frozen=True):
    """A causal language model to be served."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Id in the OpenAI API, and part of the route: letters, digits, `_` and `-`."""
    path: str
    """Folder with config, weights and tokenizer as `save_pretrained` leaves them, or a hub id."""
    digest: str = ""
    """What identifies the weights (an artifact key, a commit); goes into every transcript."""
    revision: str | None = None
    """Commit or branch of a hub id; None is its default branch."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Number format of weights and activations."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt plus completion, in tokens; None takes it from the model's config."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""

    @property
    def is_local(self) -> bool:
        """Whether `path` is a folder on this machine."""
        return Path(self.path).is_dir()


class Placement(ServingSpec, frozen=True):
    """Where and how a model runs; never part of a result's identity."""

    num_replicas: int = Field(default=1, ge=1)
    """Copies of the model, each with its own engine."""
    num_cpus: float = Field(default=0.0, ge=0.0)
    """CPUs that Ray sets aside per replica; 0 lets it start while others hold every CPU."""
    num_gpus: float = Field(default=0.0, ge=0.0)
    """GPUs per engine worker, of which a replica has `tensor_parallel`; 0 runs on the CPU."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one copy of the weights."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0)
    """Memory for keys and values of a replica on the CPU, in GiB; vLLM wants whole ones."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0)
    """Share of a GPU's memory for weights, keys and values."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences that an engine decodes at the same time."""
    num_threads: int = Field(default=1, ge=1)
    """OpenMP threads of an engine on the CPU."""
    start_timeout_s: float = Field(default=900.0, gt=0.0)
    """Seconds after which a model that is not up counts as failed."""

    @field_validator("kv_cache_gib")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value != int(value):
            raise ValueError(f"kv_cache_gib must be a whole number of GiB; found {value}")
        return value


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model that is up; it pickles, so any process of the cluster can make a client of it."""

    model: str
    """Id of the model in the OpenAI API."""
    digest: str
    """Digest of the weights, as in `ServedModel`."""
    base_url: str
    """What the `openai` client takes as `base_url`; empty where there is no HTTP."""
    app: str
    """Name of the Ray Serve app; empty for an endpoint that someone else runs."""
    deployment: str = ""
    """Name of the Ray Serve deployment that holds the engine."""


def check_servable(model: ServedModel, placement: Placement) -> None:
    """Refuse, before any process starts, a local model that vLLM would refuse after a minute.

    Args:
        model: what shall be served; a hub id is not looked at.
        placement: where; heads of any size are fine on a GPU.

    Raises:
        ServingInputError: the folder is no causal language model, or its heads do not fit the CPU
        kernels.
    """
    folder = Path(model.path)
    if not folder.is_dir():
        if folder.is_absolute() or model.path.startswith((".", "~")):
            raise ServingInputError(
                f"model {model.name!r}: no folder {model.path!r}; "
                "give a folder with config.json or a hub id"
            )
        return
    missing = [
        name for name in ("config.json", "tokenizer_config.json") if not (folder / name).exists()
    ]
    if missing:
        raise ServingInputError(
            f"model {model.name!r}: {folder} has no {' and no '.join(missing)}; "
            "save model and tokenizer there with save_pretrained"
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ServingInputError(f"model {model.name!r}: {folder} holds no weights (*.safetensors)")
    config = json.loads((folder / "config.json").read_text())
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    head_dim = config.get("head_dim") or (hidden // heads if hidden and heads else None)
    if placement.num_gpus == 0 and head_dim and head_dim not in VLLM_CPU_HEAD_SIZES:
        raise ServingInputError(
            f"model {model.name!r}: head_dim {head_dim} cannot be served on the CPU; "
            f"vLLM takes {', '.join(map(str, VLLM_CPU_HEAD_SIZES))}"
        )
