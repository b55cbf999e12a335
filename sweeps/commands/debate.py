"""`w2s debate`: debates live in the terminal, about rows of a task or about questions typed in."""

import argparse
import asyncio
import contextlib
import sys
import tomllib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from serving.backends.base import Backend
from serving.client import CompletionClient
from serving.debate.protocols.base import DebateProtocol
from serving.debate.types import Speaker
from serving.errors import ServingInputError
from sweeps import speakers
from sweeps.debating import Asked, Scene, watch
from sweeps.load import load
from sweeps.placements import check_fit_together, execution, unit_of
from sweeps.plan import Planner, Point
from sweeps.report import browser
from sweeps.resources import Execution
from sweeps.results import TranscriptExample, Transcripts
from sweeps.runtime import Runtime
from sweeps.servable import servable
from sweeps.store import ArtifactStore
from w2s.errors import UserError
from w2s.models.remote import RemoteModel
from w2s.spec import digest, parse
from w2s.stages.base import Stage, StageContext
from w2s.stages.debate import Debate
from w2s.stages.models import Model, model_key
from w2s.stages.pretrain import Pretrain
from w2s.stages.setup import Setup
from w2s.stages.window import window_of
from w2s.tasks.base import Task
from w2s.tasks.base import load as load_task

NOBODY = "none"
"""Name of a judge that is nobody."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part, and in what."""

    setup: Setup
    """The first experiment of the task, with weak and strong the ends of the ladder."""
    task: str
    """Label of the task."""
    stage: Debate
    """Who debates how; its prompts are not run."""
    judge: Model | None
    """Who decides in the end."""
    names: dict[str, str]
    """Names of models by key."""

    @property
    def models(self) -> dict[str, Model]:
        """All who take part, by key."""
        taking = (self.stage.debater, self.stage.opponent, self.stage.judge, self.judge)
        return {model_key(model): model for model in taking if model is not None}


def run(arguments: argparse.Namespace) -> int:
    """Check everything, bring the models up, let them argue, print as it goes."""
    from sweeps import cluster

    sweep, runtime = load(arguments.file, arguments.overrides)
    planner = Planner(sweep)
    cast = cast_of(planner, arguments)
    asked = asked_of(cast.setup.task, arguments)
    if asked is None and not sys.stdin.isatty():
        raise UserError("nothing to debate: give --row NUMBER, or --question TEXT")
    store = ArtifactStore(runtime.store)
    _check_stored(cast, store, arguments.file)
    remote = _remote(planner, cast, runtime, store)
    is_local = len(remote) < len(cast.models)
    connected = cluster.connected(arguments.address or runtime.address)
    with connected if is_local else contextlib.nullcontext():
        nodes = cluster.node_resources() if is_local else []
        how = execution(runtime, planner, store.root, nodes, remote)
        here = {key: model for key, model in cast.models.items() if key not in remote}
        units = {cast.names[key]: unit_of(model, how) for key, model in here.items()}
        check_fit_together("w2s debate", units, nodes)
        made = asyncio.run(_perform(cast, store, how, asked, arguments))
    if arguments.save is not None and made:
        title = f"{sweep.name}, {cast.stage.protocol.kind}"
        page = browser.page(title, Transcripts(examples=tuple(made)), {})
        Path(arguments.save).write_text(page, encoding="utf-8")
        print(f"wrote {arguments.save}")
    return 0


def cast_of(planner: Planner, arguments: argparse.Namespace) -> Cast:
    """Who debates how, checked before anything starts.

    Raises:
        UserError: no such task, model or protocol, or they do not fit each other; or the page
            cannot be written.
    """
    if arguments.save is not None and not Path(arguments.save).absolute().parent.is_dir():
        raise UserError(f"--save {arguments.save!r}: no such folder; make it, or name another")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: a seed is 0 or more")
    labels = planner.sweep.task_labels
    index = 0 if arguments.task is None else _place(arguments.task, labels)
    setup = _setup(planner, index, arguments.seed)
    protocol = setup.protocol if arguments.protocol is None else protocol_of(arguments.protocol)
    judge = None if arguments.judge == NOBODY else _named(setup, "judge", arguments.judge)
    if judge is None and (protocol.needs_judge or protocol.argues_against):
        raise UserError(
            f"protocol {protocol.kind!r} needs a judge; leave out `--judge {NOBODY}`, or take "
            "another protocol"
        )
    opponent = None
    if arguments.opponent is not None:
        opponent = _named(setup, "opponent", arguments.opponent)
    stage = setup.debate(
        _named(setup, "debater", arguments.debater),
        opponent=opponent,
        judge=judge,
        protocol=protocol,
        # What is argued against is what the judge alone holds for true, known when it was asked.
        against=setup.prompts if protocol.argues_against else None,
    )
    if judge is not None:
        setup.judged(judge)
    ladder = planner.models[index]
    names = {model_key(model): name for name, model in {**planner.speakers, **ladder}.items()}
    return Cast(setup, labels[index], stage, judge, names)


def protocol_of(text: str) -> DebateProtocol:
    """A protocol from the command line: a kind, or a TOML table.

    Raises:
        UserError: it is neither, or has no such field.
    """
    if not text.lstrip().startswith("{"):
        return parse(DebateProtocol, text)
    try:
        return parse(DebateProtocol, tomllib.loads(f"protocol = {text}")["protocol"])
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"--protocol {text!r} is no table ({error}); write for example "
            "'{ kind = \"simultaneous\", num_rounds = 2 }'"
        ) from error


def asked_of(task: Task, arguments: argparse.Namespace) -> Asked | None:
    """What the command line asks; None: it asks nothing.

    Raises:
        UserError: no such row, or a question that the models cannot read.
    """
    if arguments.question is not None:
        return typed(task, arguments.question)
    if arguments.row is None:
        return None
    rows = load_task(task).rows[arguments.split]
    if not 0 <= arguments.row < len(rows):
        raise UserError(
            f"--row {arguments.row}: the {arguments.split} split has rows 0 to {len(rows) - 1}"
        )
    row = rows[arguments.row]
    where = f"row {arguments.row} of {arguments.split}, {row.row_id}"
    return Asked(row.row_id, row.prompt, row.label, where)


def typed(task: Task, text: str) -> Asked:
    """A question that somebody typed; the same words are the same question.

    Raises:
        UserError: the models cannot read it.
    """
    prompt, label = task.typed(text)
    return Asked(f"typed-{digest(prompt)}", prompt, label, "typed")


def _named(setup: Setup, option: str, name: str) -> Model:
    try:
        return setup.named(name)
    except UserError as error:
        raise UserError(f"--{option}: {error}") from error


def _place(task: str, labels: list[str]) -> int:
    if task not in labels:
        raise UserError(f"--task {task!r}: no such task; tasks: {', '.join(labels)}")
    return labels.index(task)


def _setup(planner: Planner, task_index: int, seed: int) -> Setup:
    cells = [cell for cell in planner.cells() if cell.task_index == task_index]
    if not cells:
        label = planner.sweep.task_labels[task_index]
        raise UserError(f"no block of the sweep is about task {label!r}; name another task")
    ladder = list(planner.models[task_index].values())
    setup = planner.experiment(Point(cells[0])).setup(seed)
    return replace(setup, weak=ladder[0], strong=ladder[-1])


def _check_stored(cast: Cast, store: ArtifactStore, file: str) -> None:
    for model in cast.models.values():
        if isinstance(model, Pretrain) and not store.has(model):
            raise UserError(
                f"{model.name} ({model.key}) is not in the store {store.root} yet; "
                f"`w2s run {file}` pretrains it"
            )


def _remote(
    planner: Planner, cast: Cast, runtime: Runtime, store: ArtifactStore
) -> dict[str, Backend]:
    """What answers for those behind a URL, with their keys from the environment."""
    wanted = {key for key, model in cast.models.items() if isinstance(model, RemoteModel)}
    if not wanted:
        return {}
    folder = speakers.cache_folder(runtime, store)
    found = speakers.backends(planner, folder)
    return {key: found[key].with_key() for key in wanted}


async def _perform(
    cast: Cast,
    store: ArtifactStore,
    how: Execution,
    asked: Asked | None,
    arguments: argparse.Namespace,
) -> list[TranscriptExample]:
    """Debate what is asked, or what is typed until nothing more is."""
    console = Console()
    made = []
    async with _clients(cast, store, how, console) as clients:
        context = StageContext(
            output_dir=Path(),
            inputs={
                key: store.local(model)
                for key, model in cast.models.items()
                if isinstance(model, Stage)
            },
            clients=clients,
        )
        scene = Scene(
            stage=cast.stage,
            task=cast.task,
            speakers=cast.stage.speakers(context),
            judge=None if cast.judge is None else _speaker(cast.judge, context),
            judge_prompts=cast.setup.task.judge_prompts(),
            names=cast.names,
            shows_thinking=arguments.thinking,
        )
        if asked is not None:
            return [await watch(scene, asked, console)]
        while (text := await asyncio.to_thread(_read_line)) is not None:
            try:
                made.append(await watch(scene, typed(cast.setup.task, text), console))
            except (UserError, ServingInputError) as error:
                console.print(str(error), style="red", markup=False, highlight=False)
    return made


def _speaker(model: Model, context: StageContext) -> Speaker:
    window = window_of(model, context)
    key = model_key(model)
    return Speaker(model.name, key, context.clients[key], window.count, window.max_tokens)


def _read_line() -> str | None:
    """A typed question; None at an empty line or the end of the input."""
    try:
        return input("\nquestion (empty: end)> ").strip() or None
    except EOFError:
        return None


@contextlib.asynccontextmanager
async def _clients(
    cast: Cast, store: ArtifactStore, how: Execution, console: Console
) -> AsyncIterator[Mapping[str, CompletionClient]]:
    """Clients of all who take part, by key; the models are up inside the block."""
    from serving.backends.vllm import Vllm
    from sweeps.served import ServedModels

    served = ServedModels(Vllm(), how)
    models = {key: servable(model, store, how.placement_of) for key, model in cast.models.items()}
    names = ", ".join(cast.names[key] for key in models)
    try:
        with console.status(f"bringing {names} up") as status:
            async with served.lease(models) as clients:
                status.stop()
                yield clients
    finally:
        await served.close()
