"""What a stage is, and what it is given to run with.

A *stage* is a frozen spec whose fields are literals or other stages: the graph is the nesting, and
`key` is its identity. A stage runs in one of three *lanes*: `train` (inside a Ray Train worker
group, all replicas call `run`), `serve` (an async task with clients of served models) and `light`
(a short CPU task). `StageContext` brings everything that is not identity: folders, replicas,
clients, progress.

A stage writes files under `context.output_dir` and nothing else; it never looks for its own output:
the runner does caching, locks and retries.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import BaseModel

from w2s.spec import Spec, digest_of_text, encoded_fields
from w2s.stages.sharing import Shared
from w2s.types import Acceleration

if TYPE_CHECKING:
    from serving.client import CompletionClient
    from w2s.training.checkpointing import Checkpoints
    from w2s.training.parallel import Replicas

Lane = Literal["train", "serve", "light"]


class Requests(NamedTuple):
    """An estimate of what one served model is asked."""

    number: int
    """Requests."""
    input_tokens: int
    """Tokens of all prompts."""
    output_tokens: int
    """Tokens of all answers, at most."""

    def plus(self, other: "Requests") -> "Requests":
        """Both together."""
        return Requests(*(one + two for one, two in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class StageContext:
    """Where and how a stage runs. Nothing here may change its result."""

    output_dir: Path
    """Local folder for the stage's files, empty but in the `serve` lane, where an attempt finds
    what a failed one left; in the `train` lane only rank 0 writes."""
    inputs: Mapping[str, Path]
    """Local artifact folder of each input stage, by key."""
    replicas: "Replicas | None" = None
    """Data-parallel group (`train` lane)."""
    device: str = "cpu"
    """Torch device of this replica."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast precision."""
    micro_batch_size: int | None = None
    """Examples a forward pass at most; None: the whole update."""
    acceleration: Acceleration = field(default_factory=Acceleration)
    """How training computes its passes."""
    clients: "Mapping[str, CompletionClient]" = field(default_factory=dict)
    """Clients of served models by the key of the model's stage or source (`serve` lane)."""
    progress: Callable[[int, int, dict[str, float]], None] = lambda step, total, metrics: None
    """Called as (step, total, metrics): live view and the curve of the stage's run."""
    warm: dict[str, Any] = field(default_factory=dict)
    """Objects a worker keeps between stages (a base model by key); may be empty at any call."""
    checkpoints: "Checkpoints | None" = None
    """Where a long training keeps its state, and finds that of an attempt that was cut off (`train`
    lane); None: nowhere."""
    shrink: Callable[[int], None] = lambda micro_batch_size: None
    """Called with the next `micro_batch_size` when the device had no memory for the last one."""

    def path(self, stage: "Stage") -> Path:
        """Artifact folder of an input stage."""
        return self.inputs[stage.key]


class Stage(Spec, metaclass=Shared):
    """A node of the plan: what to compute, never where or how.

    Raise `version` when the result of `run` would change; the key changes with it.
    """

    version: ClassVar[int] = 1
    lane: ClassVar[Lane] = "light"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed; its key is its own."""
        copied = super().model_copy(update=update, deep=deep)
        for cached in ("key", "inputs"):
            vars(copied).pop(cached, None)
        return copied

    @property
    def kind(self) -> str:
        """Word for this stage in logs, plans and the store: the class name in snake case."""
        return _snake_case(type(self).__name__)

    @cached_property
    def key(self) -> str:
        """Identity: digest of class, version, every field, and the keys of the inputs."""
        return digest_of_text(encoded_fields(self, _key_of))

    def identity(self) -> dict[str, Any]:
        """The canonical form that `key` hashes, with each input stage replaced by its key."""
        return json.loads(encoded_fields(self, _key_of))

    @cached_property
    def inputs(self) -> "tuple[Stage, ...]":
        """The stages this one reads, each once, in field order."""
        found: dict[str, Stage] = {}
        for name in _composite_fields(type(self)):  # pyright: ignore[reportArgumentType] - hashes
            for stage in _stages_in(getattr(self, name)):
                found.setdefault(stage.key, stage)
        return tuple(found.values())

    @property
    def name(self) -> str:
        """Readable name, no identity: `finetune-xs-xent-s0`."""
        return self.kind

    @property
    def base_model(self) -> "str | None":
        """Key of the base model it holds in memory; gangs prefer stages whose model they hold."""
        return None

    @property
    def served_models(self) -> "tuple[Stage | BaseModel, ...]":
        """Models that must be served while it runs: `Pretrain` stages or model sources."""
        return ()

    def cost(self) -> float:
        """Estimated seconds on one core: orders the queue and the estimate of `w2s plan`."""
        return 0.0

    def requests(self) -> "dict[str, Requests]":
        """Estimated requests to the models that must be served, by key; `w2s plan` adds them up."""
        return {}

    def run(self, context: StageContext) -> None:
        """Compute the artifact into `context.output_dir`; in the `serve` lane a coroutine."""
        raise NotImplementedError


@cache
def _snake_case(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


def closure(
    stages: Iterable[Stage], leaf: Callable[[Stage], bool] = lambda stage: False
) -> dict[str, Stage]:
    """Stages and all they are made from, inputs first, by key.

    Args:
        stages: where to begin.
        leaf: whether a stage's inputs shall be left out.
    """
    found: dict[str, Stage] = {}
    todo = [(stage, False) for stage in reversed(list(stages))]
    while todo:
        stage, expanded = todo.pop()
        if stage.key in found:
            continue
        if expanded or leaf(stage):
            found[stage.key] = stage
        else:
            todo.append((stage, True))
            todo.extend((source, False) for source in reversed(stage.inputs))
    return found


def _key_of(value: BaseModel) -> str | None:
    return value.key if isinstance(value, Stage) else None


def _stages_in(value: Any) -> Iterator[Stage]:
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, BaseModel):
        for name in _composite_fields(type(value)):
            yield from _stages_in(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _stages_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _stages_in(item)


@cache
def _composite_fields(kind: type[BaseModel]) -> tuple[str, ...]:
    """Names of the fields that can hold a stage."""
    return tuple(
        name for name, field in kind.model_fields.items() if not _is_plain(field.annotation)
    )


def _is_plain(annotation: Any) -> bool:
    """Whether a type is of scalars alone, or of tuples of them."""
    if get_origin(annotation) is Literal or annotation in (str, int, float, bool, type(None), ...):
        return True
    inner = get_args(annotation)
    return bool(inner) and all(map(_is_plain, inner))
