"""`w2s debate`: one debate about one row, live in the terminal."""

import argparse
import asyncio

from rich.console import Console

from serving.debate.run import TurnStarted, live_debate
from serving.debate.types import Question, Speaker, Turn
from serving.models import Endpoint
from sweeps.config import load
from sweeps.plan import Planner
from sweeps.served import served_key
from w2s.errors import UserError
from w2s.tasks.base import load as load_task
from w2s.types import Row


def run(arguments: argparse.Namespace) -> int:
    """Serve the debater, let it argue, print as it goes."""
    from serving.backends.vllm import Vllm
    from sweeps import cluster
    from sweeps.commands.serve import stored_model

    sweep, runtime = load(arguments.file, arguments.overrides)
    planner = Planner(sweep)
    task = sweep.tasks[0]
    rows = load_task(task).rows["test"]
    if not 0 <= arguments.row < len(rows):
        raise UserError(f"--row {arguments.row}: the test split has rows 0 to {len(rows) - 1}")
    rung = arguments.debater or sweep.ladder[-1].name
    if rung not in planner.models[0]:
        raise UserError(f"--debater {rung!r}: no such rung; rungs: {', '.join(planner.models[0])}")
    model = planner.models[0][rung]
    served = stored_model(model, runtime, arguments.file)
    console = Console()
    with (
        cluster.connected(arguments.address or runtime.address),
        console.status(f"bringing {rung} up") as status,
    ):
        backend = Vllm()
        with backend.serve([served], runtime.serve) as endpoints:
            status.stop()
            _argue(
                console,
                backend,
                endpoints[served.name],
                planner,
                rows[arguments.row],
                served_key(model),
                arguments,
            )
    return 0


def _argue(
    console: Console,
    backend: object,
    endpoint: Endpoint,
    planner: Planner,
    row: Row,
    digest: str,
    arguments: argparse.Namespace,
) -> None:
    from serving.backends.base import Backend

    assert isinstance(backend, Backend)
    sweep = planner.sweep

    async def argue() -> None:
        speaker = Speaker(model=endpoint.model, digest=digest, client=backend.client(endpoint))
        question = Question(id=row.row_id, text=row.prompt)
        console.print(f"[bold]{row.prompt}[/bold]", highlight=False)
        console.print(f"(row {arguments.row}, {row.row_id}; seed {arguments.seed})", style="dim")
        async for event in live_debate(
            sweep.protocol,
            question,
            {"A": speaker, "B": speaker},
            seed=arguments.seed,
            prompts=sweep.debate_prompts_of(0),
        ):
            if isinstance(event, TurnStarted):
                style = "green" if event.position == "correct" else "red"
                console.print(f"\n[{style}]{event.side}, {event.position}:[/{style}] ", end="")
            elif isinstance(event, str):
                console.print(event, end="", markup=False, highlight=False)
            else:
                assert isinstance(event, Turn)
        truth = "correct" if row.label == 1 else "incorrect"
        console.print(f"\n\nthe proposed answer is [bold]{truth}[/bold]")

    asyncio.run(argue())
