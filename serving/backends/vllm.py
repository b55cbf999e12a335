"""vLLM behind Ray Serve: one app per model, built by `ray.serve.llm`, on GPUs or on the CPU.

    deploy   starts the app `llm-<model>` under the route `/<model>`
    client   in-cluster traffic through the deployment's handle, a seed for every prompt of a
    request remove   deletes the app; its engine's process ends with it

HTTP listens on the loopback of the head node. A process that deploys loads vLLM (10 s of one core,
once); one that only makes clients loads Ray Serve alone.
"""

import asyncio
import functools
import logging
import os
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from serving.backends.base import Backend
from serving.client import (
    BatchingClient,
    CompletionClient,
    Probabilities,
    RequestPolicy,
    Scores,
    Text,
)
from serving.errors import CompletionFailed, DeploymentFailed, ServingInputError, TransientFailure
from serving.messages import Completion, Sampling
from serving.models import Adapter, Endpoint, Placement, ServedModel, check_servable, on_vllm

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
POLL_S = 1.0
FREE_PORTS = range(20_000, 32_000)
"""Between the ports of Ray's workers and those that the kernel hands out."""
PORT_ATTEMPTS = 3
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Logging of Serve's processes: a line per request would drown everything else."""
MAX_ADAPTERS_IN_MEMORY = 64
"""Adapters that an engine keeps ready; those beyond are read again when they are asked for."""
MAX_ONGOING_REQUESTS = 1000
"""Requests that wait at a classifier in transformers, which takes one after the other."""
STOP_TIMEOUT_S = 5.0
"""Seconds that a replica gets to finish what it is doing when its app is removed."""

_STARTING = threading.Lock()
"""Threads may wait for different models at the same time, but Serve's own start-up code takes one
thread."""
_PICKLING = threading.Lock()
"""Held while Serve pickles a deployment's router; see `_pickle_one_by_one`."""


class Vllm(Backend, frozen=True):
    """Models in replicas on the Ray cluster that this process has joined."""

    kind: Literal["vllm"] = "vllm"
    http_port: int = Field(default=0, ge=0, le=65535)
    """Port on the loopback; 0 takes a free one. A Serve instance that runs keeps its own."""
    owner: str = Field(default="", pattern=r"^[A-Za-z0-9]*$")
    """Keeps the models of several owners on one cluster apart; `clear` removes this one's."""

    def deploy_all(
        self, models: Sequence[ServedModel], placement: Placement
    ) -> dict[str, Endpoint]:
        """Bring models up beside each other; see `Backend.deploy_all`.

        Two processes that deploy one model for the first time at the same moment would restart each
        other's
        replica: let one process of a cluster deploy.
        """
        for model in models:
            check_servable(model, placement)
        root_url = self.prepare()
        endpoints = {}
        for model in models:
            endpoints[model.name] = endpoint = Endpoint(
                model=model.name,
                digest=model.digest,
                base_url=f"{root_url}{self._route(model)}/v1",
                app=f"{self._apps}{model.name}",
                deployment=model.name,
                task=model.task,
            )
            _start_app(endpoint.app, self._route(model), model, placement)
        for model in models:
            _wait_until_running(model, endpoints[model.name].app, placement.start_timeout_s)
        return endpoints

    def prepare(self) -> str:
        """Do now what does not depend on a model: start Serve and load vLLM into this process.

        Returns:
            Root URL of the HTTP routes.
        """
        _pickle_one_by_one()
        with _STARTING:
            root_url = start_serve(self.http_port)
            with _own_logging():
                import serving.vllm_server  # noqa: F401
        return root_url

    def client(self, endpoint: Endpoint, policy: RequestPolicy | None = None) -> CompletionClient:
        """A client over the deployment's handle; see `Backend.client`."""
        from ray import serve

        _pickle_one_by_one()
        return BatchingClient(
            HandleTransport(
                serve.get_deployment_handle(endpoint.deployment, endpoint.app), endpoint.adapter
            ),
            policy,
        )

    def remove(self, endpoint: Endpoint) -> None:
        """Delete the app and wait until its replicas are gone; see `Backend.remove`."""
        import ray
        from ray import serve

        if ray.is_initialized() and _app_status(endpoint.app)[0] is not None:
            serve.delete(endpoint.app)

    def clear(self) -> None:
        """Delete all apps of this owner; see `Backend.clear`."""
        from ray import serve
        from ray.serve.context import _get_global_client

        if not self.owner or _get_global_client(raise_if_no_controller_running=False) is None:
            return
        for app in serve.status().applications:
            if app.startswith(self._apps):
                log.warning("app=%s was left by a process that died; it is removed", app)
                serve.delete(app)

    @property
    def _apps(self) -> str:
        """What the names of this owner's apps begin with."""
        return f"llm-{self.owner}-" if self.owner else "llm-"

    def _route(self, model: ServedModel) -> str:
        return f"/{self.owner}/{model.name}" if self.owner else f"/{model.name}"


class HandleTransport:
    """Sends requests to `SeededLLMServer` or a classifier through a Serve handle."""

    seeds_per_request = True

    def __init__(self, handle: "DeploymentHandle", adapter: Adapter | None = None) -> None:
        self._handle = handle
        self._adapter = adapter

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        """Complete the prompts of one request; see `Transport.send`."""
        return await self._answer("complete_batch", list(prompts), sampling, list(seeds))

    async def score(
        self, prompts: Sequence[str], choices: Sequence[str], timeout_s: float
    ) -> list[Scores]:
        """Score the choices after the prompts of one request; see `Transport.score`."""
        return await self._answer("score_batch", list(prompts), list(choices))

    async def classify(self, texts: Sequence[Text], timeout_s: float) -> list[Probabilities]:
        """Classify the texts of one request; see `Transport.classify`."""
        return await self._answer("classify_batch", list(texts))

    async def stream(
        self, prompt: str, sampling: Sampling, seed: int, timeout_s: float
    ) -> AsyncIterator[str]:
        """Complete one prompt, piece by piece; see `Transport.stream`."""
        handle: Any = self._handle.options(stream=True)
        async with asyncio.timeout(timeout_s):
            async for piece in handle.stream_one.remote(self._adapter, prompt, sampling, seed):
                yield piece

    async def aclose(self) -> None:
        """Nothing: a handle's connections belong to the process."""

    async def _answer(self, method: str, *arguments: object) -> Any:
        """Call a method of a replica; its errors become ours."""
        from ray.exceptions import RayActorError, RayTaskError
        from ray.serve.exceptions import BackPressureError, RayServeException

        response = getattr(self._handle, method).remote(self._adapter, *arguments)
        try:
            return await response
        except asyncio.CancelledError:
            # Else the engine would go on with what nobody waits for.
            response.cancel()
            raise
        except (RayActorError, BackPressureError) as error:
            raise TransientFailure(f"replica lost or busy: {error}") from error
        except RayTaskError as error:
            raise CompletionFailed(f"the engine refused: {error.cause}") from error
        except RayServeException as error:
            raise CompletionFailed(f"no such deployment: {error}") from error


def start_serve(http_port: int) -> str:
    """Start Serve on this cluster, or find it running; its root URL."""
    import ray
    from ray import serve

    # Serve has no public way to ask a running instance for its port.
    from ray.serve.context import _get_global_client

    if not ray.is_initialized():
        raise ServingInputError("no Ray cluster: call ray.init() before a model is deployed")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    client = _get_global_client(raise_if_no_controller_running=False)
    for attempt in range(PORT_ATTEMPTS):
        if client is not None:
            break
        port = http_port or _free_port()
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": HOST, "port": port},
                logging_config=QUIET,
            )
            client = _get_global_client()
        except RuntimeError as error:
            serve.shutdown()
            if http_port or attempt + 1 == PORT_ATTEMPTS:
                raise ServingInputError(
                    f"Serve cannot listen on {HOST}:{port}; free that port or set another http_port"
                ) from error
    assert client is not None
    return f"http://{HOST}:{client.http_config.port}"


def _free_port() -> int:
    """A port that nobody listens on, from a range that no process is given one from by chance."""
    for port in random.sample(FREE_PORTS, k=len(FREE_PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return port
    raise ServingInputError(f"every port of {FREE_PORTS} on {HOST} is taken; set http_port")


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep this process's logging: `ray.serve.llm` replaces the root logger's handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _pickle_one_by_one() -> None:
    """Make Serve's configs safe to be made in several threads of this process.

    Each registers the router's module for pickling by value and takes that back, which fails where
    another thread has done so in between. Handles, statuses and Serve's own threads make configs.
    """
    from ray.serve.config import RequestRouterConfig

    serialize = RequestRouterConfig._serialize_request_router_cls
    with _PICKLING:
        if hasattr(serialize, "__wrapped__"):
            return

        @functools.wraps(serialize)
        def one_by_one(self: RequestRouterConfig) -> None:
            with _PICKLING:
                serialize(self)

        RequestRouterConfig._serialize_request_router_cls = one_by_one


def _app_status(app: str) -> tuple[str | None, str]:
    """Status of an app, None where there is none, and what Serve says about it."""
    from ray import serve

    found = serve.status().applications.get(app)
    if found is None:
        return None, ""
    replicas = "; ".join(item.message for item in found.deployments.values() if item.message)
    return found.status.value, replicas or found.message


def _start_app(app: str, route: str, model: ServedModel, placement: Placement) -> None:
    """Start the app of a model unless it is there."""
    from ray import serve

    with _STARTING:
        if _app_status(app)[0] in ("RUNNING", "DEPLOYING"):
            return
        target = serve.RunTarget(target=_build_app(model, placement), name=app, route_prefix=route)
        serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )


def _wait_until_running(model: ServedModel, app: str, timeout_s: float) -> None:
    from ray import serve

    deadline = time.monotonic() + timeout_s
    while (status := _app_status(app))[0] != "RUNNING":
        failed = status[0] in (None, "DEPLOY_FAILED", "UNHEALTHY")
        if failed or time.monotonic() > deadline:
            serve.delete(app)
            what = "did not start" if failed else f"is not up after {timeout_s:g} s"
            lines = status[1].strip().splitlines() or ["Serve gives no reason"]
            raise DeploymentFailed(
                f"model {model.name!r} from {model.path} {what}: {lines[-1].strip()} "
                f"(more in replica_{app}_* among the logs of Ray Serve)"
            )
        time.sleep(POLL_S)


def _build_app(model: ServedModel, placement: Placement) -> Any:
    """The Serve application of one model."""
    from ray.serve.llm import LLMConfig, build_llm_deployment

    from serving.vllm_server import NoDownload, PooledClassifier, SeededLLMServer

    if not on_vllm(model, placement):
        return _build_torch_app(model, placement)
    config = LLMConfig.model_validate(
        {**llm_config(model, placement), "callback_config": {"callback_class": NoDownload}}
    )
    return build_llm_deployment(
        config,
        name_prefix="",
        bind_kwargs={"model": model},
        deployment_cls=PooledClassifier if model.task == "classify" else SeededLLMServer,
        override_serve_options={"name": model.name, "max_constructor_retry_count": 1},
    )


def _build_torch_app(model: ServedModel, placement: Placement) -> Any:
    """The Serve application of a classifier that vLLM cannot run."""
    from ray import serve

    from serving.torch_classifier import TorchClassifier

    options = {**_serve_options(placement), "max_ongoing_requests": MAX_ONGOING_REQUESTS}
    options["ray_actor_options"] = {
        "num_cpus": placement.num_cpus,
        "num_gpus": placement.num_gpus,
        "runtime_env": {"env_vars": _environment(model, placement)},
    }
    deployment: Any = serve.deployment(TorchClassifier, name=model.name, **options)
    return deployment.bind(model, on_gpu=placement.num_gpus > 0)


def llm_config(model: ServedModel, placement: Placement) -> dict[str, Any]:
    """What `ray.serve.llm.LLMConfig` is made from.

    Args:
        model: a model that vLLM runs.
        placement: where and how.
    """
    on_gpu = placement.num_gpus > 0
    bundle = {"CPU": placement.num_cpus}
    if on_gpu:
        bundle["GPU"] = placement.num_gpus
    elif placement.num_cpus == 0:
        # Ray refuses an empty bundle; one with a byte of memory fits where no CPU is free.
        bundle["memory"] = 1
    return {
        "model_loading_config": {"model_id": model.name, "model_source": model.path},
        "accelerator_config": {"kind": "gpu" if on_gpu else "cpu"},
        "placement_group_config": {"bundle_per_worker": bundle},
        "engine_kwargs": engine_kwargs(model, placement),
        "runtime_env": {"env_vars": _environment(model, placement)},
        "deployment_config": {**_serve_options(placement), "ray_actor_options": {"num_cpus": 0}},
        # Ray's own exporter is another port; vLLM's page hangs on the app's `/metrics`.
        "log_engine_metrics": False,
    }


def _serve_options(placement: Placement) -> dict[str, Any]:
    """Options of a deployment that do not depend on the engine."""
    options: dict[str, Any] = {
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": STOP_TIMEOUT_S,
        "logging_config": QUIET,
    }
    if placement.max_replicas is None:
        return {**options, "num_replicas": placement.num_replicas}
    autoscaling = {
        "min_replicas": placement.min_replicas,
        "max_replicas": placement.max_replicas,
        "target_ongoing_requests": placement.target_ongoing_requests,
    }
    return {**options, "autoscaling_config": autoscaling}


def engine_kwargs(model: ServedModel, placement: Placement) -> dict[str, Any]:
    """Arguments of the vLLM engine of a model.

    Args:
        model: a model that vLLM runs.
        placement: where and how.
    """
    kwargs: dict[str, Any] = {
        "dtype": model.dtype,
        "max_num_seqs": placement.max_num_seqs,
        "tensor_parallel_size": placement.tensor_parallel,
        # An encoder's tokens see each other: nothing of a prefix can be kept.
        "enable_prefix_caching": model.read_token == "last",
        "trust_remote_code": model.trust_remote_code,
        # Else vLLM would load pickles where there is nothing else.
        "load_format": "safetensors",
        # A model's own generation_config would change what the HTTP routes sample, and only those.
        "generation_config": "vllm",
        "disable_log_stats": not placement.metrics,
    }
    if model.max_model_len is not None:
        kwargs["max_model_len"] = model.max_model_len
    if model.revision is not None:
        kwargs["revision"] = model.revision
    if model.task == "classify":
        kwargs |= {
            "runner": "pooling",
            "convert": "embed",
            # The hidden state as it is: not normalised, in float32 like the training stack's.
            "pooler_config": {
                "pooling_type": "LAST" if model.read_token == "last" else "CLS",
                "use_activation": False,
            },
            "dtype": "float32",
        }
    if model.adapters:
        kwargs |= {
            "enable_lora": True,
            "max_loras": placement.max_adapters,
            "max_cpu_loras": max(placement.max_adapters, MAX_ADAPTERS_IN_MEMORY),
            "max_lora_rank": placement.max_adapter_rank,
        }
    if placement.num_gpus > 0:
        kwargs["gpu_memory_utilization"] = placement.gpu_memory_share
    else:
        # Compiling takes longer than these models run.
        kwargs["enforce_eager"] = True
        # A prompt cut over two steps makes vLLM rewind the prompt's generator, which one on the
        # CPU cannot do: the engine would die.
        kwargs["enable_chunked_prefill"] = False
    return kwargs


def _environment(model: ServedModel, placement: Placement) -> dict[str, str]:
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if model.is_local:
        variables["HF_HUB_OFFLINE"] = "1"
    if placement.num_gpus == 0:
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(int(placement.kv_cache_gib)),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(placement.num_threads),
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return variables
