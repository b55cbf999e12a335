"""Where and how stages run, and whether a cluster can give what that takes. No Ray here.

`GangShape` is what one worker group reserves, `Execution` everything that the broker and its
workers need to know beside the stages themselves; both are runtime, never identity. `slots` says
how many groups fit on nodes, `check_fits` refuses a shape that can never fit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from serving.backends.base import Backend
from serving.client import RequestPolicy
from serving.models import Placement
from w2s.errors import UserError
from w2s.spec import Spec
from w2s.types import Acceleration

Resources = Mapping[str, float]


class GangShape(Spec):
    """Workers of one gang and what each of them reserves."""

    num_workers: int = Field(default=1, ge=1)
    """Data-parallel workers that train one model together."""
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    """CPUs that Ray sets aside per worker."""
    gpus_per_worker: float = Field(default=0.0, ge=0.0)
    """GPUs that Ray sets aside per worker; 0 trains on the CPU."""
    threads_per_worker: int = Field(default=1, ge=1)
    """OpenMP and torch threads of a worker."""

    @property
    def per_worker(self) -> dict[str, float]:
        """Ray resources of one worker."""
        resources = {"CPU": self.cpus_per_worker}
        if self.gpus_per_worker:
            resources["GPU"] = self.gpus_per_worker
        return resources


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process; OpenMP reads it when torch is imported.

    Args:
        threads: OpenMP threads. Several workers share a machine: waiting threads must not spin.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }


def slots(shape: GangShape, nodes: Sequence[Resources]) -> int:
    """Gangs of a shape that fit at the same time on nodes with these resources.

    A worker lives on one node; the workers of a gang may be on different ones.
    """
    workers = sum(
        min(
            math.floor(node.get(name, 0.0) / need + 1e-9) for name, need in shape.per_worker.items()
        )
        for node in nodes
    )
    return workers // shape.num_workers


def check_fits(shape: GangShape, nodes: Sequence[Resources]) -> None:
    """Refuse a shape that the cluster could never start.

    Args:
        shape: what is asked for.
        nodes: total resources of each node, busy or not.

    Raises:
        UserError: not even one gang fits on the empty cluster.
    """
    if slots(shape, nodes) > 0:
        return
    asked = " and ".join(f"{need:g} {name}" for name, need in shape.per_worker.items())
    raise UserError(
        f"training asks for {shape.num_workers} worker(s) with {asked} each, which this cluster "
        f"can never give; its {len(nodes)} node(s) have: {words(nodes)}; ask for fewer "
        "workers or less per worker, or join a larger cluster"
    )


def words(nodes: Sequence[Resources]) -> str:
    """What nodes have, for messages: `4 CPU, 1 GPU; 4 CPU, 0 GPU`."""
    each = (
        ", ".join(f"{node.get(name, 0.0):g} {name}" for name in ("CPU", "GPU")) for node in nodes
    )
    return "; ".join(each) or "nothing"


def left_over(
    nodes: Sequence[Resources], taken: Sequence[tuple[int, Resources]]
) -> list[dict[str, float]]:
    """Resources of the nodes once workers are placed on them, first fit.

    Args:
        nodes: total resources of each node.
        taken: (number of workers, resources of each) per group; what fits nowhere is left out.
    """
    free = [dict(node) for node in nodes]
    for count, needs in taken:
        for _ in range(count):
            for node in free:
                if all(node.get(name, 0.0) >= need for name, need in needs.items()):
                    for name, need in needs.items():
                        node[name] = node.get(name, 0.0) - need
                    break
    return free


@dataclass(frozen=True, slots=True)
class Execution:
    """Where and how the stages of a driver run are executed; known to all its processes."""

    store: str
    """Folder or URL of the artifact store."""
    shape: GangShape
    """Gang that trains a stage."""
    max_gangs: int | None = None
    """Gangs at the same time; None: what the cluster holds."""
    precision: Literal["fp32", "bf16"] | None = None
    """Autocast precision of training; None: bf16 on a GPU, fp32 on the CPU."""
    micro_batch_size: int | None = None
    """Examples a forward pass at most; None: the whole update."""
    acceleration: Acceleration = field(default_factory=Acceleration)
    """How training computes its passes."""
    sharding: Literal["replicate", "shard"] = "replicate"
    """Whether the workers of a gang hold the whole model each, or a part of it."""
    backend: Backend | None = None
    """What serves models; None: vLLM on the Ray cluster."""
    remote: Mapping[str, Backend] = field(default_factory=dict)
    """What serves models behind a URL, by the key of the model."""
    placement: Placement = field(default_factory=Placement)
    """Where and how served models run."""
    placements: Mapping[str, Placement] = field(default_factory=dict)
    """Where and how some of them run otherwise, by the key of the base model."""
    requests: RequestPolicy = field(default_factory=RequestPolicy)
    """Bounds of the traffic to a served model."""
    max_light_workers: int = 2
    """Processes for short CPU stages."""
    max_serve_stages: int = 2
    """Stages that talk to served models at the same time; few, so that the first is done early."""
    retries: int = 2
    """Further starts of a stage whose process died or whose error may go away by itself."""
    stage_timeout_s: float | None = None
    """Seconds after which a stage that still runs is stopped; None: never."""
    checkpoint_s: float = 60.0
    """Seconds between two checkpoints of a training; a shorter one writes none."""
    gang_idle_s: float = 10.0
    """Seconds without any stage to come after which a gang ends."""
    model_idle_s: float = 20.0
    """Seconds without any stage to come after which a served model is removed."""
    lease_s: float = 60.0
    """Seconds without a sign of life after which a caller's requests are dropped."""

    def placement_of(self, base: str) -> Placement:
        """Where and how a model of this base runs."""
        return self.placements.get(base, self.placement)
