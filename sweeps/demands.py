"""What the stages of a sweep would ask of an imagined cluster: GPUs, seconds, models to load.

`Cluster` is what `w2s plan --cluster gpus=512,gpu=h100` says, and every assumption of the cost
model is one of its fields. `demands` turns a plan into the jobs that `sweeps.simulate` schedules.
Sizes of models come from their architecture, their folder, their name (`Qwen2.5-72B`) or the
cluster's `size.RUNG`: nothing is asked of a hub.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from sweeps.plan import Plan, Planner
from sweeps.simulate import Job
from w2s.errors import UserError
from w2s.models.remote import RemoteModel
from w2s.models.source import PretrainedModel
from w2s.spec import Spec, describe
from w2s.stages.base import Requests, Stage
from w2s.stages.features import Features
from w2s.stages.finetune import SCORED, Finetune
from w2s.stages.generative import GenerativeFinetune
from w2s.stages.models import Model, model_key
from w2s.stages.pretrain import Pretrain
from w2s.types import SPLITS, Split, splits_of

CORE_FLOPS = 2e10
"""Operations a second of the core that `Stage.cost` is about."""
SIZE_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([mMbB])(?![A-Za-z0-9])")
NO_REQUESTS = Requests(0, 0, 0)


class Gpu(NamedTuple):
    """A kind of GPU."""

    peak_tflops: float
    """Dense bf16 operations a second at best, in 1e12."""
    memory_gb: float
    """Memory in 1e9 bytes."""


GPUS = {
    "v100": Gpu(125, 32),
    "a10g": Gpu(70, 24),
    "l4": Gpu(121, 24),
    "l40s": Gpu(362, 48),
    "rtx4090": Gpu(165, 24),
    "a100": Gpu(312, 80),
    "a100-40gb": Gpu(312, 40),
    "h100": Gpu(989, 80),
    "h200": Gpu(989, 141),
    "b200": Gpu(2250, 180),
    "mi300x": Gpu(1307, 192),
}
"""Peaks and memories from the makers' data sheets."""


class Cluster(Spec):
    """An imagined cluster and the assumptions under which a sweep is played on it."""

    gpus: int = Field(ge=1)
    """GPUs in all."""
    gpus_per_node: int = Field(default=8, ge=1)
    """GPUs of a machine: a gang takes a power of two of them, or whole machines."""
    gpu: str = "h100"
    """Kind of the GPUs, for peak and memory."""
    cpus: int = Field(default=0, ge=0)
    """CPUs for stages that need no GPU; 0: eight for each GPU."""
    peak_tflops: float = Field(default=0.0, ge=0)
    """Dense bf16 operations a second of a GPU, in 1e12; 0: that of the kind."""
    memory_gb: float = Field(default=0.0, ge=0)
    """Memory of a GPU in 1e9 bytes; 0: that of the kind."""
    fill: float = Field(default=0.8, gt=0, le=1)
    """Share of the memory that weights, gradients and optimizer state may take; the rest is for
    activations, keys and values."""
    mfu: float = Field(default=0.4, gt=0, le=1)
    """Share of the peak that training and forward passes reach."""
    decode_mfu: float = Field(default=0.05, gt=0, le=1)
    """Share of the peak that served models reach while they write."""
    stage_s: float = Field(default=0.2, ge=0)
    """Seconds that each stage costs beside its work: files, store, broker."""
    gang_s: float = Field(default=30.0, ge=0)
    """Seconds to start a gang."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of each served model."""
    serve_s: float = Field(default=120.0, ge=0)
    """Seconds to start the replica of a served model."""
    load_gb_s: float = Field(default=1.0, gt=0)
    """Weights that a GPU loads in a second, in 1e9 bytes."""
    remote_tokens_s: float = Field(default=2000.0, gt=0)
    """Tokens a second of a speaker behind a URL."""
    sizes: dict[str, float] = Field(default_factory=dict)
    """Parameters of rungs and speakers, by name."""

    @model_validator(mode="after")
    def _gpu_is_known(self) -> Self:
        if self.gpu not in GPUS and not (self.peak_tflops and self.memory_gb):
            raise ValueError(
                f"gpu: unknown kind {self.gpu!r}; known: {', '.join(GPUS)}; for another one give "
                "peak_tflops and memory_gb"
            )
        return self

    @property
    def flops(self) -> float:
        """Operations a second of a GPU at best."""
        return 1e12 * (self.peak_tflops or GPUS[self.gpu].peak_tflops)

    @property
    def memory(self) -> float:
        """Bytes of a GPU that weights and optimizer may take."""
        return 1e9 * self.fill * (self.memory_gb or GPUS[self.gpu].memory_gb)

    @property
    def num_cpus(self) -> int:
        """CPUs for stages that need no GPU."""
        return self.cpus or 8 * self.gpus

    def gpus_for(self, num_bytes: float) -> int:
        """GPUs of a gang that shares out so many bytes: a power of two, or whole machines."""
        gpus = 1
        while gpus * self.memory < num_bytes and gpus < self.gpus_per_node:
            gpus = min(2 * gpus, self.gpus_per_node)
        while gpus * self.memory < num_bytes:
            gpus += self.gpus_per_node
        return gpus

    def assumptions(self) -> list[str]:
        """The cost model in words."""
        return [
            f"{self.gpus} GPUs ({self.gpu}: {self.flops / 1e12:g} TFLOPS of bf16 and "
            f"{self.memory / self.fill / 1e9:g} GB each), {self.gpus_per_node} a machine; "
            f"{self.num_cpus} CPUs",
            "nothing is in the store; a search is at the values of the file",
            f"training: 6 N D operations (weights frozen under adapters: 4 N D), forward passes "
            f"2 N D, for N parameters and D tokens, at {self.mfu:.0%} of the peak",
            f"memory: 16 bytes a parameter (fp32 weights, gradients, two moments of Adam; 4 where "
            f"weights are frozen, 2 where a model is served), shared out over a gang, in "
            f"{self.fill:.0%} of each GPU; a gang has the fewest GPUs that hold it: a power of "
            "two, or whole machines",
            "tokens of a row: a quarter of its characters in the test split, at most max_length; "
            "no padding",
            f"served models: reading 2 N operations a token at {self.mfu:.0%} of the peak, writing "
            f"2 N at {self.decode_mfu:.0%}; replicas: {self.replicas}; one stage at a time; "
            f"answers at their longest; speakers behind a URL {self.remote_tokens_s:g} tokens/s",
            f"a gang starts in {self.gang_s:g} s, a served model in {self.serve_s:g} s, weights "
            f"load at {self.load_gb_s:g} GB/s a GPU, a stage costs {self.stage_s:g} s beside its "
            "work",
            f"stages of no known operations: their estimate on one core at {CORE_FLOPS:.0e} "
            "operations a second",
            "any free GPUs make a gang; which machine they are on, networks and failures are left "
            "out",
        ]


def parse_cluster(text: str) -> Cluster:
    """The cluster that `gpus=512,gpu=h100,size.base=7e9` says.

    Raises:
        UserError: a key or a value is not understood; the message lists the keys.
    """
    table: dict[str, str] = {}
    sizes: dict[str, str] = {}
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise UserError(f"--cluster: {item!r} is not understood; write gpus=512,gpu=h100")
        if name.startswith("size."):
            sizes[name.removeprefix("size.")] = value
        else:
            table[name] = value
    fields = [*(name for name in Cluster.model_fields if name != "sizes"), "size.RUNG"]
    for name in table:
        if name not in fields:
            raise UserError(f"--cluster: unknown key {name!r}; there are {', '.join(fields)}")
    try:
        return Cluster.model_validate(table | {"sizes": sizes})
    except ValidationError as error:
        raise UserError("; ".join(describe(error, Cluster, "--cluster: "))) from error


def on_paper(source: PretrainedModel) -> PretrainedModel:
    """The source as it is: nothing is looked up."""
    return source


def sizes(planner: Planner, cluster: Cluster) -> dict[str, float]:
    """Parameters of every model of a sweep, by the key of the model.

    Raises:
        UserError: a size is not known, or one is given for a model that there is not.
    """
    named = [
        (name, model)
        for models in (*planner.models, planner.speakers)
        for name, model in models.items()
    ]
    names = list(dict(named))
    for name in cluster.sizes:
        if name not in names:
            raise UserError(
                f"--cluster: size.{name}: no such rung or speaker; there are {', '.join(names)}"
            )
    return {
        model_key(model): cluster.sizes.get(name) or _size(name, model)
        for name, model in named
        if not isinstance(model, RemoteModel)
    }


def _size(name: str, model: Model) -> float:
    if isinstance(model, Pretrain):
        return float(model.architecture.num_parameters(len(model.corpus.tokenizer())))
    assert isinstance(model, PretrainedModel)
    if Path(model.path).expanduser().is_dir():
        return float(model.count.total)
    found = SIZE_IN_NAME.findall(Path(model.path).name)
    if not found:
        raise UserError(
            f"--cluster: the size of {name!r} ({model.path}) is not known and not in its name; "
            f"add its parameters, such as size.{name}=7e9"
        )
    number, unit = found[-1]
    return float(number) * (1e9 if unit in "bB" else 1e6)


def demands(plan: Plan, cluster: Cluster, sizes: Mapping[str, float]) -> list[Job]:
    """A job for every stage.

    Args:
        plan: of the sweep.
        cluster: what it is played on.
        sizes: parameters by the key of the model.

    Raises:
        UserError: the cluster is too small for a stage.
    """
    sizes = dict(sizes)
    jobs: list[Job] = []
    for stage in plan.stages.values():  # Inputs first: a model that reads on is as large as it was.
        if isinstance(stage, Finetune | GenerativeFinetune):
            sizes[stage.key] = sizes[model_key(stage.model)]
        jobs.append(_job(stage, cluster, sizes))
    for job in jobs:
        if job.gpus > cluster.gpus:
            raise UserError(
                f"--cluster: {job.name} needs {job.gpus} GPUs for its weights, and there are "
                f"{cluster.gpus}; give more, or more memory_gb"
            )
    return jobs


def _job(stage: Stage, cluster: Cluster, sizes: Mapping[str, float]) -> Job:
    if stage.lane == "train":
        return _training(stage, cluster, sizes)
    if stage.lane == "serve":
        return _asking(stage, cluster, sizes)
    return _with(stage, seconds=cluster.stage_s + stage.cost())


def _with(
    stage: Stage,
    *,
    seconds: float,
    gpus: int = 0,
    model: str = "",
    load_s: float = 0.0,
    start_s: float = 0.0,
) -> Job:
    return Job(
        key=stage.key,
        name=stage.name,
        kind=stage.kind,
        seconds=seconds,
        gpus=gpus,
        model=model,
        load_s=load_s,
        start_s=start_s,
        inputs=tuple(source.key for source in stage.inputs),
    )


def _training(stage: Stage, cluster: Cluster, sizes: Mapping[str, float]) -> Job:
    size = sizes.get(stage.key if isinstance(stage, Pretrain) else stage.base_model or "", 0.0)
    work, per_parameter = _operations(stage, size)
    gpus = cluster.gpus_for(per_parameter * size)
    return _with(
        stage,
        seconds=cluster.stage_s + work / (gpus * cluster.flops * cluster.mfu),
        gpus=gpus,
        model=stage.base_model or "",
        load_s=4 * size / (1e9 * cluster.load_gb_s * gpus) if stage.base_model else 0.0,
        start_s=cluster.gang_s,
    )


def _operations(stage: Stage, size: float) -> tuple[float, float]:
    """Operations of a stage of the `train` lane, and bytes of memory a parameter of its model."""
    if isinstance(stage, Finetune):
        tokens, recipe = stage.tokens, stage.train
        frozen = recipe.mode == "lora"
        learned = recipe.epochs * tokens.num_rows(*splits_of(stage.train_split))
        scored = tokens.num_rows(*SCORED) * max(1, recipe.num_checkpoints)
        others: list[Split] = [split for split in stage.predicts if split not in SCORED]
        row = tokens.row_tokens() * size
        predicted = scored + tokens.num_rows(*others)
        work = row * (learned * (4 if frozen else 6) + predicted * 2)
        return work, 4 if frozen else 16
    if isinstance(stage, Features):
        return 2 * size * stage.tokens.num_rows(*SPLITS) * stage.tokens.row_tokens(), 4
    if isinstance(stage, GenerativeFinetune):
        tokens = stage.tokens.num_rows(*stage.splits) * stage.tokens.row_tokens()
        return 6 * size * stage.train.epochs * tokens, 16
    return stage.cost() * CORE_FLOPS, 16


def _asking(stage: Stage, cluster: Cluster, sizes: Mapping[str, float]) -> Job:
    """A stage that asks served models: it has the GPUs of all of them."""
    gpus, seconds, loaded = 0, 0.0, 0.0
    requests = stage.requests()
    served = {_key(model): model for model in stage.served_models}
    for key, model in served.items():
        asked = requests.get(key, NO_REQUESTS)
        if isinstance(model, RemoteModel):
            seconds += (asked.input_tokens + asked.output_tokens) / cluster.remote_tokens_s
            continue
        size = sizes[key]
        each = cluster.gpus_for(2 * size)
        own = each * cluster.replicas
        reading = asked.input_tokens / cluster.mfu
        writing = asked.output_tokens / cluster.decode_mfu
        seconds += 2 * size * (reading + writing) / (own * cluster.flops)
        loaded = max(loaded, 2 * size / (1e9 * cluster.load_gb_s * each))
        gpus += own
    return _with(
        stage,
        seconds=cluster.stage_s + seconds,
        gpus=gpus,
        model="served " + " ".join(sorted(served)),
        load_s=loaded + cluster.serve_s if gpus else 0.0,
    )


def _key(model: object) -> str:
    assert isinstance(model, Stage | PretrainedModel | RemoteModel)
    return model.key if isinstance(model, Stage) else model_key(model)


def kinds(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """Jobs by kind, in alphabetical order."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.kind, []).append(job)
    return dict(sorted(found.items()))
