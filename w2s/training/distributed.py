"""Gangs: worker groups of Ray Train that stay up for one stage after another.

`run_gang` starts a `TorchTrainer` whose loop calls a given function once on every worker, with the
worker's place (`Member`), and returns when all of them have returned. What the function does there,
pulling stages for as long as there are any, is its own business: a group pays its start once, not
once a stage. When a worker dies the group ends with it, and `run_gang` says of what.

The one file of this package that knows Ray.
"""

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import LoggingConfig

from w2s.training.parallel import Replicas

QUIET = {
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # A worker that is preempted is one that died: the group ends and its stage starts again.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Relative paths in a spec mean the folder the sweep was started in.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A dead worker is noticed, and a finished group taken down, within this time.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Workers that found no room by then give their place in the queue to others.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
}
"""Settings of Ray Train, read from the environment of the process that starts a gang."""


@dataclass(frozen=True, slots=True)
class Member:
    """A worker's place in its gang."""

    replicas: Replicas
    """Rank and size."""
    device: str
    """Torch device of this worker: `cpu`, `cuda:0`, ..."""


def run_gang(
    work: Callable[[Member], None],
    *,
    storage_path: str,
    num_workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float = 0.0,
    threads_per_worker: int = 1,
    environment: Mapping[str, str] | None = None,
    collective_timeout_s: int = 1800,
) -> None:
    """Run `work` once on every worker of a new worker group; blocks until all have returned.

    Args:
        work: called with the worker's place; it must pickle. What it raises counts as a failure of
            the group.
        storage_path: folder or URL for Ray Train's own notes; all nodes of the gang must see it.
        num_workers: workers, joined in a process group: nccl with GPUs, else gloo.
        cpus_per_worker: CPUs that Ray sets aside for each.
        gpus_per_worker: GPUs that Ray sets aside for each.
        threads_per_worker: torch threads of each.
        environment: variables of the workers' processes, there before torch is imported.
        collective_timeout_s: seconds after which a collective without its partners fails.

    Raises:
        ray.train.WorkerGroupError: a worker died, or what it ran raised; of each, which error.
        ray.train.ControllerError: the workers did not start; see `found_no_room`.
        ray.exceptions.RayActorError: what watches over the workers died, and so did they.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    per_worker = {"CPU": cpus_per_worker}
    if gpus_per_worker:
        per_worker["GPU"] = gpus_per_worker
    trainer = _GangTrainer(
        _loop,
        train_loop_config={"work": work, "threads": threads_per_worker},
        torch_config=TorchConfig(timeout_s=collective_timeout_s),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            name=f"gang-{uuid.uuid4().hex[:8]}",
            storage_path=storage_path,
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            worker_runtime_env={"env_vars": dict(environment or {})},
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    trainer.fit()


class _GangTrainer(TorchTrainer):
    """A trainer without the two actors of each group that nothing here uses.

    One hands out Ray Data; the other frees what the group reserves when its controller dies, where
    there is a dashboard: whoever starts gangs does that anyway. Each costs a process two seconds of
    imports.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback)
        found = super()._create_default_callbacks()
        return [callback for callback in found if not isinstance(callback, needless)]


def found_no_room(error: BaseException) -> bool:
    """Whether a gang ended because nobody had room for its workers in time."""
    failure = getattr(error, "controller_failure", None)
    return isinstance(failure, WorkerGroupStartupTimeoutError)


def _loop(config: dict) -> None:
    """What Ray Train runs on every worker."""
    torch.set_num_threads(config["threads"])
    replicas = Replicas.current()
    config["work"](Member(replicas, str(get_device())))
