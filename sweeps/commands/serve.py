"""`w2s serve`: a sweep's models as OpenAI-compatible endpoints on loopback."""

import argparse
import signal
import threading

from serving.howto import describe
from serving.models import ServedModel
from sweeps.config import Runtime, load
from sweeps.plan import Planner, Point
from sweeps.served import served_model
from sweeps.store import ArtifactStore
from w2s.errors import UserError
from w2s.spec import digest
from w2s.stages.base import Stage, closure
from w2s.stages.models import Model, model_key
from w2s.stages.pretrain import Pretrain


def run(arguments: argparse.Namespace) -> int:
    """Bring models up, say how to call them, wait for Ctrl-C."""
    from serving.backends.vllm import Vllm
    from sweeps import cluster

    sweep, runtime = load(arguments.file, arguments.overrides)
    planner = Planner(sweep)
    rungs = arguments.models or served_rungs(planner)
    for rung in rungs:
        if rung not in planner.models[0]:
            raise UserError(
                f"--models {rung!r}: no such rung; rungs: {', '.join(planner.models[0])}"
            )
    models = [stored_model(planner.models[0][rung], runtime, arguments.file) for rung in rungs]
    with cluster.connected(arguments.address or runtime.address):
        backend = Vllm(http_port=arguments.port)
        print(f"bringing up {', '.join(rungs)} ...", flush=True)
        with backend.serve(models, runtime.serve) as endpoints:
            print(describe(list(endpoints.values())), flush=True)
            print("up; Ctrl-C ends it", flush=True)
            _wait_for_signal()
    return 0


def served_rungs(planner: Planner) -> list[str]:
    """Rungs of the first task that argue in a debate or teach a student, in the ladder's order.

    A teacher is served as the base model it is finetuned from: completions, not its labels.
    """
    names = {model_key(model): rung for rung, model in planner.models[0].items()}
    found: set[str] = set()
    for cell in planner.cells():
        found.add(cell.weak)
        roles = planner.experiment(Point(cell)).roles(planner.sweep.seeds[0])
        for stage in closure(roles).values():
            for model in stage.served_models:
                key = model.key if isinstance(model, Stage) else digest(model)
                if key in names:
                    found.add(names[key])
    return [rung for rung in planner.models[0] if rung in found]


def stored_model(model: Model, runtime: Runtime, file: str) -> ServedModel:
    """What the serving layer is told about a rung.

    Raises:
        UserError: the rung is pretrained by the sweep and not in the store yet.
    """
    store = ArtifactStore(runtime.store)
    if isinstance(model, Pretrain) and not store.has(model):
        raise UserError(
            f"{model.name} ({model.key}) is not in the store {store.root} yet; "
            f"`w2s run {file}` pretrains it"
        )
    return served_model(model, store)


def _wait_for_signal() -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(0.5):
        pass
