"""`w2s serve`: a sweep's models and finetuned teachers as endpoints.

Models come up as they do inside a sweep, through `ServedModels`: same placement, same replicas, on
loopback. With an API key a gateway (`serving.gateway`) stands before them, on any address.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain

from serving.gateway import check_key, gateway, is_loopback, split_url
from serving.howto import describe
from serving.models import Endpoint
from sweeps.load import load
from sweeps.placements import check_fit_together, execution, unit_at
from sweeps.plan import Planner, Point
from sweeps.resources import Execution
from sweeps.servable import Servable, servable, served_key
from sweeps.served import ServedModels
from sweeps.store import ArtifactStore
from w2s.errors import UserError
from w2s.models.remote import RemoteModel
from w2s.stages.base import Stage, closure
from w2s.stages.data import GroundTruth
from w2s.stages.finetune import Finetune
from w2s.stages.models import Model, model_key
from w2s.stages.pretrain import Pretrain
from w2s.stages.probe import Probe


@dataclass(frozen=True, slots=True)
class Door:
    """Where endpoints can be reached."""

    host: str
    """Address to listen on."""
    port: int
    """0: a free one."""
    key: str = ""
    """API key; empty: none is asked for."""
    key_name: str = ""
    """Environment variable that it came from."""


def run(arguments: argparse.Namespace) -> int:
    """Bring models up, say how to call them, wait for Ctrl-C."""
    from sweeps import cluster

    door = door_of(arguments.host, arguments.port, arguments.api_key_env)
    sweep, runtime = load(arguments.file, arguments.overrides)
    planner = Planner(sweep)
    store = ArtifactStore(runtime.store)
    known = served_candidates(planner)
    names = arguments.models or ([] if arguments.teachers else served_names(planner))
    for name in names:
        if name not in known:
            raise UserError(f"--models {name!r}: no such rung; rungs: {', '.join(known)}")
        _check_stored(known[name], store, arguments.file)
    found = teachers(planner) if arguments.teachers else []
    for teacher in found:
        _check_stored(teacher.model, store, arguments.file)
    with cluster.connected(arguments.address or runtime.address):
        nodes = cluster.node_resources()
        how = execution(runtime, planner, store.root, nodes)
        _finetune_missing(found, store, how)
        models = {
            served_key(model): servable(model, store, how.placement_of)
            for model in chain((known[name] for name in names), found)
        }
        units = {
            each.model.name: unit_at(each.base, how.placement_of(each.base))
            for each in models.values()
        }
        check_fit_together("w2s serve", units, nodes)
        print(f"bringing up {', '.join(each.name for each in models.values())} ...", flush=True)
        asyncio.run(_serve(models, how, door))
    return 0


def door_of(host: str, port: int, key_name: str | None) -> Door:
    """What the command line says about where to listen.

    The key leaves the environment, so that no process started from here on has it in its own.

    Raises:
        UserError: other machines could come in without a key.
        ServingInputError: the key is missing or could be guessed.
    """
    if key_name is None:
        if not is_loopback(host):
            raise UserError(
                f"--host {host} lets other machines in, so an API key is needed: name the "
                "environment variable that holds it, --api-key-env W2S_API_KEY; or leave --host "
                "out to listen on 127.0.0.1"
            )
        return Door(host, port)
    key = os.environ.pop(key_name, "")
    check_key(key, key_name)
    return Door(host, port, key, key_name)


def served_candidates(planner: Planner) -> dict[str, Model]:
    """Rungs of the first task by name, and speakers that are not behind a URL."""
    here = {
        name: model
        for name, model in planner.speakers.items()
        if not isinstance(model, RemoteModel)
    }
    return {**planner.models[0], **here}


def served_names(planner: Planner) -> list[str]:
    """Models of the first task that argue, judge or teach a student, in the ladder's order.

    A teacher is served as the base model it is finetuned from: completions, not its labels.
    """
    names = {model_key(model): name for name, model in served_candidates(planner).items()}
    found: set[str] = set()
    for cell in planner.cells():
        found.add(cell.weak)
        roles = planner.experiment(Point(cell)).roles(planner.sweep.seeds[0])
        for stage in closure(roles).values():
            for model in stage.served_models:
                if (key := served_key(model)) in names:
                    found.add(names[key])
    return [name for name in served_candidates(planner) if name in found]


def teachers(planner: Planner) -> list[Finetune]:
    """The finetuned supervisors of the first block at the first seed, with their weights kept.

    Raises:
        UserError: the block's supervisors are probes, or there is none.
    """
    block = planner.sweep.blocks[0].name
    cells = [cell for cell in planner.cells() if cell.block == block]
    stages = [
        stage
        for cell in cells
        for stage in closure(planner.experiment(Point(cell)).roles(planner.sweep.seeds[0])).values()
        if isinstance(stage, Finetune | Probe) and isinstance(stage.labels, GroundTruth)
    ]
    supervisors = [stage for stage in stages if stage.train_split == "weak_train"]
    finetuned = {
        stage.key: stage.model_copy(update={"save_weights": True})
        for stage in supervisors
        if isinstance(stage, Finetune)
    }
    if not finetuned:
        what = "are probes on features" if supervisors else "do not exist"
        raise UserError(
            f"--teachers: the supervisors of block {block!r} {what}; only finetuned ones are "
            'served: set supervisor.mode = "full" or "lora"'
        )
    return list(finetuned.values())


def _check_stored(model: Model, store: ArtifactStore, file: str) -> None:
    if isinstance(model, Pretrain) and not store.has(model):
        raise UserError(
            f"{model.name} ({model.key}) is not in the store {store.root} yet; "
            f"`w2s run {file}` pretrains it"
        )


def _finetune_missing(found: list[Finetune], store: ArtifactStore, how: Execution) -> None:
    """Finetune the teachers whose weights are not in the store, as a sweep would."""
    from sweeps.broker import start_broker

    missing: list[Stage] = [teacher for teacher in found if not store.has(teacher)]
    if not missing:
        return
    print(
        f"finetuning {len(missing)} of {len(found)} teachers: a sweep keeps their labels, and "
        "weights only where something asks for them; kept from now on",
        flush=True,
    )
    with start_broker(how) as broker:
        broker.request(missing)


async def _serve(models: Mapping[str, Servable], how: Execution, door: Door) -> None:
    """Keep models up until a signal comes; one that comes early waits for what is starting."""
    from serving.backends.vllm import Vllm

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    served = ServedModels(Vllm(http_port=0 if door.key else door.port), how)
    try:
        async with (
            served.endpoints(models) as local,
            _behind(door, list(local.values())) as endpoints,
        ):
            counted = {
                models[key].name for key in models if how.placement_of(models[key].base).metrics
            }
            print(describe(endpoints, counted, door.key_name), flush=True)
            print("up; Ctrl-C ends it", flush=True)
            await stop.wait()
    finally:
        await served.close()


@asynccontextmanager
async def _behind(door: Door, endpoints: Sequence[Endpoint]) -> AsyncIterator[list[Endpoint]]:
    """Endpoints as they are reached through a door, which is open inside the block."""
    if not door.key:
        yield list(endpoints)
        return
    root_url, _ = split_url(endpoints[0].root_url)
    paths = dict.fromkeys(split_url(endpoint.root_url)[1] for endpoint in endpoints)
    async with gateway(door.host, door.port, door.key, root_url, paths) as url:
        yield [
            replace(endpoint, base_url=url + split_url(endpoint.base_url)[1])
            for endpoint in endpoints
        ]
