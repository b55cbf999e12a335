"""What is served (`ServedModel`) and where and how (`Placement`); `Endpoint` is a model that is up.

Only `ServedModel` can matter to a result. `Placement` may change from machine to machine. Low-rank
adapters of one base (`Adapter`) share its replicas: a request says which of them it goes through.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from serving.errors import ServingInputError
from serving.heads import HEAD_FILE
from serving.messages import ServingSpec

VLLM_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Attention head sizes that vLLM's CPU kernels take."""
ADAPTED_TYPES = frozenset({"gemma", "gemma2", "llama", "mistral", "opt", "phi", "qwen2", "qwen3"})
"""Model types that vLLM runs with low-rank adapters."""
POOLED_TYPES = frozenset(
    {"bert", "gemma", "gpt2", "llama", "mistral", "opt", "qwen2", "qwen3", "roberta"}
)
"""Model types whose last hidden state vLLM computes as transformers does; classifiers of other
types run in transformers."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
"""Of files that Python's pickle writes."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
AdapterRank = Literal[8, 16, 32, 64, 128, 256, 320, 512]
"""Ranks that vLLM can be asked to hold."""
GPU_MEMORY_SHARE = 0.9
"""Share of a GPU's memory, or of the part of a GPU that a model gets, that a model may fill."""


class Adapter(ServingSpec, frozen=True):
    """A low-rank adapter of a served model."""

    name: str = Field(pattern=NAME)
    """Id in the OpenAI API."""
    path: str
    """Folder as peft leaves it; a classifier's has its head beside the adapter."""
    digest: str = ""
    """What identifies base and adapter together; goes into every transcript."""
    max_input: int | None = Field(default=None, ge=1)
    """Longest input of a classifier, in tokens; longer ones lose tokens on the left."""


class ServedModel(ServingSpec, frozen=True):
    """A model to be served: one that writes, or a classifier."""

    name: str = Field(pattern=NAME)
    """Id in the OpenAI API, and part of the route: letters, digits, `_` and `-`."""
    path: str
    """Folder with config, weights and tokenizer as `save_pretrained` leaves them, or a hub id."""
    digest: str = ""
    """What identifies the weights (an artifact key, a commit); goes into every transcript."""
    revision: str | None = None
    """Commit or branch of a hub id; None is its default branch."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run in its replicas."""
    task: Literal["generate", "classify"] = "generate"
    """Whether it writes text, or its head reads one token and says how likely each class is."""
    adapters: tuple[Adapter, ...] = ()
    """Adapters that its replicas hold from the start; with one, others can follow in requests."""
    read_token: Literal["last", "first"] = "last"
    """Token that a classifier's head reads: the last of a decoder, the first of an encoder."""
    max_input: int | None = Field(default=None, ge=1)
    """Longest input of a classifier, in tokens; longer ones lose tokens on the left."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    """Number format of weights and activations."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Longest prompt plus completion, in tokens; None takes it from the model's config."""

    @property
    def is_local(self) -> bool:
        """Whether `path` is a folder on this machine."""
        return Path(self.path).is_dir()


class Placement(ServingSpec, frozen=True):
    """Where and how a model runs; never part of a result's identity."""

    num_replicas: int = Field(default=1, ge=1)
    """Copies of the model, each with its own engine; without autoscaling."""
    min_replicas: int = Field(default=1, ge=1)
    """Fewest copies under autoscaling."""
    max_replicas: int | None = Field(default=None, ge=1)
    """Most copies; setting it turns autoscaling on."""
    target_ongoing_requests: float = Field(default=2.0, gt=0.0)
    """Requests in work at a replica that autoscaling aims at; one carries up to 64 prompts."""
    num_cpus: float = Field(default=0.0, ge=0.0)
    """CPUs that Ray sets aside per replica; 0 lets it start while others hold every CPU."""
    num_gpus: float = Field(default=0.0, ge=0.0)
    """GPUs per engine worker, of which a replica has `tensor_parallel`: 1, a fraction to share a
    GPU, or 0 to run on the CPU."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share one copy of the weights."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0)
    """Memory for keys and values of a replica on the CPU, in GiB; vLLM wants whole ones."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of a GPU's memory for weights, keys and values; None: 0.9 of what `num_gpus` says."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences that an engine decodes at the same time."""
    max_adapters: int = Field(default=4, ge=1)
    """Adapters in one batch of an engine that has any."""
    max_adapter_rank: AdapterRank = 64
    """Highest rank of an adapter."""
    num_threads: int = Field(default=1, ge=1)
    """OpenMP threads of an engine on the CPU."""
    metrics: bool = False
    """Whether engines count for the Prometheus page under `/metrics`; costs time at every step."""
    start_timeout_s: float = Field(default=900.0, gt=0.0)
    """Seconds after which a model that is not up counts as failed."""

    @field_validator("kv_cache_gib")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value != int(value):
            raise ValueError(f"kv_cache_gib must be a whole number of GiB; found {value}")
        return value

    @model_validator(mode="after")
    def _replicas_are_one_thing(self) -> Self:
        given = self.model_fields_set
        if self.max_replicas is None:
            if extra := sorted(given & {"min_replicas", "target_ongoing_requests"}):
                raise ValueError(
                    f"{extra[0]} belongs to autoscaling, which max_replicas turns on; set "
                    "max_replicas, or leave it out"
                )
            return self
        if "num_replicas" in given:
            raise ValueError(
                "num_replicas and max_replicas exclude each other: a fixed number of copies, or "
                "autoscaling from min_replicas to max_replicas; leave one out"
            )
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}"
            )
        return self

    @model_validator(mode="after")
    def _gpus_can_be_had(self) -> Self:
        if self.num_gpus > 1:
            raise ValueError(
                f"num_gpus is per engine worker: 0, a fraction or 1; found {self.num_gpus:g}; to "
                f"spread a model over GPUs set tensor_parallel = {round(self.num_gpus)}"
            )
        if self.num_gpus not in (0, 1) and self.tensor_parallel > 1:
            raise ValueError(
                f"num_gpus = {self.num_gpus:g} shares a GPU and tensor_parallel = "
                f"{self.tensor_parallel} takes several; set num_gpus = 1 or tensor_parallel = 1"
            )
        if "num_gpus" in self.model_fields_set and not self.num_gpus and self.tensor_parallel > 1:
            raise ValueError(
                f"tensor_parallel = {self.tensor_parallel} needs GPUs; found num_gpus = 0"
            )
        asked = self.gpu_memory_utilization
        if asked is not None and 0 < self.num_gpus < asked:
            raise ValueError(
                f"gpu_memory_utilization {asked:g} is more than num_gpus = {self.num_gpus:g} of "
                "the GPU, which others share; lower it, or leave it out"
            )
        return self

    @property
    def gpu_memory_share(self) -> float:
        """Share of a GPU's memory that an engine may fill."""
        if self.gpu_memory_utilization is not None:
            return self.gpu_memory_utilization
        return round(GPU_MEMORY_SHARE * (self.num_gpus or 1.0), 4)

    @property
    def most_replicas(self) -> int:
        """Copies of the model at most."""
        return self.max_replicas or self.num_replicas

    @property
    def per_replica(self) -> dict[str, float]:
        """Ray resources of one replica, without those it takes nothing of."""
        needs = {
            "CPU": self.num_cpus * self.tensor_parallel,
            "GPU": self.num_gpus * self.tensor_parallel,
        }
        return {name: need for name, need in needs.items() if need}

    def describe(self) -> str:
        """What it takes, in words: `2 to 4 replicas, each with 2 GPUs (tensor parallel)`."""
        count = (
            f"{self.num_replicas}"
            if self.max_replicas is None
            else f"{self.min_replicas} to {self.max_replicas}"
        )
        if self.num_gpus == 0:
            each = f"on the CPU, {self.num_threads} thread(s), {self.kv_cache_gib:g} GiB cache"
        elif self.tensor_parallel > 1:
            each = f"with {self.tensor_parallel} GPUs (tensor parallel)"
        elif self.num_gpus < 1:
            each = f"with {self.num_gpus:g} GPU ({self.gpu_memory_share:.0%} of its memory)"
        else:
            each = "with 1 GPU"
        replicas = "replica" if count == "1" else "replicas, each"
        return f"{count} {replicas} {each}"


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
    adapter: Adapter | None = None
    """Adapter that requests go through; None: the model as it is."""
    task: Literal["generate", "classify"] = "generate"
    """Whether it writes or classifies."""

    def through(self, adapter: Adapter) -> "Endpoint":
        """The same replicas, with requests going through an adapter."""
        return replace(self, model=adapter.name, digest=adapter.digest, adapter=adapter)

    @property
    def root_url(self) -> str:
        """URL of the app: its `classify` and `metrics` routes hang on it."""
        return self.base_url.removesuffix("/v1")


def check_servable(model: ServedModel, placement: Placement) -> None:
    """Refuse, before any process starts, what would fail after a minute.

    Args:
        model: what shall be served; of a hub id only the adapters are looked at.
        placement: where; heads of any size are fine on a GPU.

    Raises:
        ServingInputError: the folder is no model, its heads do not fit the CPU kernels or cannot be
        dealt to the GPUs, or an adapter does not fit.
    """
    if placement.tensor_parallel > 1 and not placement.num_gpus:
        raise ServingInputError(
            f"model {model.name!r}: tensor_parallel = {placement.tensor_parallel} needs GPUs, "
            "and it runs on the CPU; set tensor_parallel = 1"
        )
    for adapter in model.adapters:
        _check_adapter(model, adapter, placement)
    folder = Path(model.path)
    if not folder.is_dir():
        if folder.is_absolute() or model.path.startswith((".", "~")):
            raise ServingInputError(
                f"model {model.name!r}: no folder {model.path!r}; "
                "give a folder with config.json or a hub id"
            )
        return
    _check_files(model, folder)
    config = json.loads((folder / "config.json").read_text())
    head_dim = head_dim_of(config)
    needs_kernel = model.task == "generate" and not placement.num_gpus
    if needs_kernel and head_dim and head_dim not in VLLM_CPU_HEAD_SIZES:
        raise ServingInputError(
            f"model {model.name!r}: head_dim {head_dim} cannot be served on the CPU; "
            f"vLLM takes {', '.join(map(str, VLLM_CPU_HEAD_SIZES))}"
        )
    heads = num_heads_of(config)
    if heads and heads % placement.tensor_parallel:
        fitting = [number for number in range(1, heads + 1) if heads % number == 0]
        raise ServingInputError(
            f"model {model.name!r}: its {heads} attention heads cannot be dealt to "
            f"tensor_parallel = {placement.tensor_parallel} GPUs; "
            f"possible: {', '.join(map(str, fitting))}"
        )
    if model.adapters and config.get("model_type") not in ADAPTED_TYPES:
        raise ServingInputError(
            f"model {model.name!r}: vLLM runs no adapters on a {config.get('model_type')} model; "
            f"serve the merged weights; with adapters: {', '.join(sorted(ADAPTED_TYPES))}"
        )


def on_vllm(model: ServedModel, placement: Placement) -> bool:
    """Whether vLLM runs it: all but classifiers of types that only transformers knows.

    On the CPU also those whose attention heads its kernels do not take. A hub id is trusted.
    """
    config_file = Path(model.path) / "config.json"
    if model.task == "generate" or not config_file.exists():
        return True
    config = json.loads(config_file.read_text())
    fits = placement.num_gpus > 0 or head_dim_of(config) in VLLM_CPU_HEAD_SIZES
    return config.get("model_type") in POOLED_TYPES and fits


def num_heads_of(config: dict[str, Any]) -> int | None:
    """Attention heads of a model by its config; None where it does not say."""
    return config.get("num_attention_heads") or config.get("n_head")


def head_dim_of(config: dict[str, Any]) -> int | None:
    """Size of an attention head by a model's config; None where it does not say."""
    hidden, heads = config.get("hidden_size") or config.get("n_embd"), num_heads_of(config)
    return config.get("head_dim") or (hidden // heads if hidden and heads else None)


def _check_files(model: ServedModel, folder: Path) -> None:
    missing = [
        name for name in ("config.json", "tokenizer_config.json") if not (folder / name).exists()
    ]
    if missing:
        raise ServingInputError(
            f"model {model.name!r}: {folder} has no {' and no '.join(missing)}; "
            "save model and tokenizer there with save_pretrained"
        )
    if not any(folder.glob("*.safetensors")):
        raise ServingInputError(
            f"model {model.name!r}: {folder} holds no weights (*.safetensors){_pickles(folder)}"
        )
    if model.task == "classify" and not model.adapters and not (folder / HEAD_FILE).exists():
        raise ServingInputError(f"model {model.name!r}: {folder} has no head ({HEAD_FILE})")


def _pickles(folder: Path) -> str:
    """What to do where weights are there, but as pickles: those run code when they are loaded."""
    found = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLE_SUFFIXES]
    if not found:
        return ""
    return (
        f"; {', '.join(found[:3])} may run code of whoever made it and is never loaded: convert it "
        "on a machine you can spare, with save_pretrained"
    )


def check_adapter_files(adapter: Adapter, task: Literal["generate", "classify"]) -> None:
    """Refuse an adapter whose files are not there or are pickles.

    Raises:
        ServingInputError: says what is missing.
    """
    folder = Path(adapter.path)
    needed = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, *([HEAD_FILE] if task == "classify" else [])]
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise ServingInputError(
            f"adapter {adapter.name!r}: {folder} has no {' and no '.join(missing)}"
            f"{_pickles(folder) if ADAPTER_WEIGHTS in missing else ''}"
        )


def _check_adapter(model: ServedModel, adapter: Adapter, placement: Placement) -> None:
    check_adapter_files(adapter, model.task)
    folder = Path(adapter.path)
    rank = json.loads((folder / ADAPTER_CONFIG).read_text())["r"]
    if rank > placement.max_adapter_rank:
        raise ServingInputError(
            f"adapter {adapter.name!r} of model {model.name!r} has rank {rank}; replicas hold "
            f"ranks up to max_adapter_rank = {placement.max_adapter_rank}; raise it"
        )
