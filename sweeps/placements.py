"""Where the stages and the served models of a sweep run, on the cluster there is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from serving.backends.base import Backend
from serving.models import Placement, ServedModel, check_servable
from sweeps.admission import Unit, fits
from sweeps.resources import Execution, GangShape, Resources, words
from sweeps.runtime import Runtime
from sweeps.servable import served_key, served_name
from w2s.errors import UserError
from w2s.models.source import PretrainedModel
from w2s.stages.base import Stage
from w2s.stages.finetune import Finetune
from w2s.stages.models import Model, model_key
from w2s.types import Acceleration

if TYPE_CHECKING:
    from sweeps.plan import Planner


@dataclass(frozen=True, slots=True)
class Placements:
    """One placement for all models, and those of models for which the file says otherwise."""

    default: Placement
    """Of most models."""
    by_key: dict[str, Placement]
    """By the key of the base model."""


def execution(
    runtime: Runtime,
    planner: "Planner",
    store: str,
    nodes: Sequence[Resources],
    remote: Mapping[str, Backend] | None = None,
) -> Execution:
    """Where stages run, with GPUs taken where the cluster has them and the file does not say.

    Args:
        runtime: the file's words.
        planner: the sweep, for the keys of its models.
        store: folder or URL of the artifact store.
        nodes: resources of the cluster's nodes.
        remote: what serves models behind a URL, by the key of the model.
    """
    train = runtime.train
    gpus = train.gpus_per_worker if train.gpus_per_worker is not None else float(has_gpus(nodes))
    shape = GangShape(
        num_workers=train.num_workers,
        cpus_per_worker=train.cpus_per_worker,
        gpus_per_worker=gpus,
        threads_per_worker=train.threads_per_worker,
    )
    served = placements(runtime, planner, nodes)
    return Execution(
        store=store,
        shape=shape,
        max_gangs=train.max_gangs,
        retries=runtime.retries,
        stage_timeout_s=runtime.stage_timeout_s,
        checkpoint_s=train.checkpoint_s,
        micro_batch_size=train.micro_batch_size,
        acceleration=Acceleration(
            micro_batch_tokens=train.micro_batch_tokens,
            compile=train.compile,
            activation_checkpointing=train.activation_checkpointing,
        ),
        sharding=train.sharding,
        placement=served.default,
        placements=served.by_key,
        remote=remote or {},
    )


def described(placement: Placement) -> str:
    """What a placement takes, in words; whether there are GPUs is only known on the cluster."""
    if "num_gpus" in placement.model_fields_set:
        return placement.describe()
    on_gpu = placement.model_copy(update={"num_gpus": 1.0}).describe()
    if placement.tensor_parallel > 1:
        return on_gpu
    return f"{on_gpu} where the cluster has some, else {placement.describe()}"


def check_servable_models(runtime: Runtime, models: Mapping[str, Model]) -> None:
    """Refuse local models that cannot be served as the file says, before anything runs.

    Args:
        runtime: the file's words; where they leave GPUs open, there may be some.
        models: what will be served, by name of the rung or speaker.

    Raises:
        ServingInputError: a model does not fit its placement.
    """
    for name, model in models.items():
        if isinstance(model, PretrainedModel):
            placement = runtime.placement_of(name)
            if "num_gpus" not in placement.model_fields_set:
                placement = placement.model_copy(update={"num_gpus": 1.0})
            check_servable(ServedModel(name="rung", path=model.path), placement)


def unit_of(model: Stage | BaseModel, execution: Execution) -> Unit:
    """What a served model reserves: all replicas that it may ever have.

    Args:
        model: a base model, or a finetuned classifier.
        execution: where and how it runs.
    """
    base = model_key(model.model) if isinstance(model, Finetune) else served_key(model)
    return unit_at(served_key(model), execution.placement_of(base))


def unit_at(key: str, placement: Placement) -> Unit:
    """What a model with this placement reserves."""
    return Unit(key, placement.most_replicas, placement.per_replica)


def check_models_fit(
    stages: Iterable[Stage], execution: Execution, nodes: Sequence[Resources]
) -> None:
    """Refuse stages whose served models the cluster could never hold at the same time.

    Args:
        stages: all that may run.
        execution: where and how models are served.
        nodes: total resources of each node, busy or not.

    Raises:
        UserError: the models of a stage do not fit on the empty cluster.
    """
    checked: set[frozenset[str]] = set()
    for stage in stages:
        models = [m for m in stage.served_models if served_key(m) not in execution.remote]
        keys = frozenset(map(served_key, models))
        if keys not in checked:
            checked.add(keys)
            units = {served_name(model): unit_of(model, execution) for model in models}
            check_fit_together(f"stage {stage.name}", units, nodes)


def check_fit_together(who: str, units: Mapping[str, Unit], nodes: Sequence[Resources]) -> None:
    """Refuse models that shall be up at the same time and cannot be.

    Args:
        who: wants them; begins the message.
        units: what they take, by name.
        nodes: total resources of each node, busy or not.

    Raises:
        UserError: they do not fit on the empty cluster.
    """
    if fits(nodes, (), [unit.group for unit in units.values()]):
        return
    asked = []
    for name, unit in units.items():
        each = " and ".join(f"{need:g} {name}" for name, need in unit.per_replica.items())
        replicas = "replica" if unit.count == 1 else "replicas"
        asked.append(f"{name}: {unit.count} {replicas} with {each or 'nothing'} each")
    several = len(units) > 1
    raise UserError(
        f"{who} needs {'models' if several else 'a model'} served ({'; '.join(asked)}), which this "
        f"cluster can never hold{' at the same time' * several}; "
        f"its {len(nodes)} node(s) have: {words(nodes)}; each replica must fit on one node: ask "
        "for fewer replicas, a smaller tensor_parallel, or num_cpus or num_gpus per replica in "
        "runtime.serve or runtime.serve_models, or join a larger cluster"
    )


def has_gpus(nodes: Sequence[Resources]) -> bool:
    """Whether a node has a whole GPU."""
    return any(node.get("GPU", 0) >= 1 for node in nodes)


def placements(runtime: Runtime, planner: "Planner", nodes: Sequence[Resources]) -> Placements:
    """What a file says, with a GPU per model where the cluster has some and the file says nothing.

    Args:
        runtime: the file's words.
        planner: the sweep, for the keys of its models.
        nodes: resources of the cluster's nodes.
    """

    def here(placement: Placement) -> Placement:
        unsaid = "num_gpus" not in placement.model_fields_set and has_gpus(nodes)
        return placement.model_copy(update={"num_gpus": 1.0}) if unsaid else placement

    named = [*(models.items() for models in planner.models), planner.speakers.items()]
    by_key = {
        model_key(model): here(runtime.placement_of(name))
        for items in named
        for name, model in items
        if name in runtime.serve_models
    }
    return Placements(here(runtime.serve), by_key)
