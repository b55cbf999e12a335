"""`w2s status`: how a sweep stands, or what the store holds as a whole."""

import argparse
import time
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.drawing import block, clock
from sweeps.progress import Progress, ProgressFile
from sweeps.store import ArtifactStore

if TYPE_CHECKING:
    from sweeps.plan import Plan

WATCH_S = 2.0
"""Seconds between two looks."""


def run(arguments: argparse.Namespace) -> int:
    """Print how a sweep stands, or counts of the whole store."""
    if arguments.file:
        return _of_sweep(arguments)
    store = ArtifactStore(arguments.store or "w2s_store")
    table = Table(title=f"artifacts in {store.root}", title_justify="left")
    table.add_column("kind")
    table.add_column("stages", justify="right")
    for kind, count in store.counts().items():
        table.add_row(kind, str(count))
    Console().print(table)
    return 0


def _of_sweep(arguments: argparse.Namespace) -> int:
    from sweeps.load import load

    sweep, runtime = load(arguments.file, arguments.overrides)
    store = ArtifactStore(arguments.store or runtime.store)
    file = ProgressFile(store, sweep.name)
    console = Console()
    if arguments.watch:
        with Live(console=console, auto_refresh=False) as live:
            while (progress := file.read()) is not None and progress.goes_on(time.time()):
                live.update(_running(progress, console.size.height), refresh=True)
                time.sleep(WATCH_S)
    progress = file.read()
    if progress is not None and progress.goes_on(time.time()):
        console.print(_running(progress, console.size.height))
        return 0
    from sweeps.driver import studies_dir
    from sweeps.plan import Plan, Planner, planned_stages
    from sweeps.search import recorded_points

    planner = Planner(sweep)
    points = recorded_points(planner, studies_dir(store))
    if points is None:
        plan = planned_stages(planner)[0]
    else:
        plan = Plan(
            root for point in points for roles in planner.roles(point).values() for root in roles
        )
    present = store.present(plan.stages.values())
    console.print(_table(f"sweep {sweep.name} in {store.root}", plan, present))
    if progress is not None:
        for line in _last_run(progress, present):
            console.print(line, soft_wrap=True)
    if points is None:
        console.print("the search has points to suggest that are not counted here")
    elif len(present) == len(plan):
        console.print("complete: `w2s run` would run nothing")
    return 0


def _running(progress: Progress, height: int) -> RenderableType:
    """A sweep that runs now, as its driver told last."""
    now = time.time()
    shown = block(
        f"{progress.sweep} runs on {progress.host} (process {progress.process})",
        now - progress.started,
        progress.snapshot,
        progress.trials,
        [f"{failure.name}: {failure.cause}" for failure in progress.failures],
        height,
    )
    return Group(shown, Text(f"as of {now - progress.written:.0f} s ago", "dim"))


def _table(title: str, plan: "Plan", present: Collection[str]) -> Table:
    """Stages of a plan by kind, and how many of them the store has."""
    done = Counter(stage.kind for stage in plan.stages.values() if stage.key in present)
    table = Table(title=title, title_justify="left")
    for name in ("kind", "stages", "cached", "missing"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, count in sorted(plan.counts.items()):
        table.add_row(kind, str(count), str(done[kind]), str(count - done[kind]))
    return table


def _last_run(progress: Progress, present: Collection[str]) -> list[Text]:
    """What became of the last run: its end, and what it failed at and nobody made since."""
    took = clock(progress.written - progress.started)
    driver = f"process {progress.process} on {progress.host}"
    lines = [
        Text(f"the last run ended after {took}")
        if progress.has_ended
        else Text(
            f"the last run ({driver}) was last heard of {clock(time.time() - progress.written)} "
            f"ago, after {took}: it was killed, or cannot reach the store; `w2s run` goes on from "
            "what is cached",
            "yellow",
        )
    ]
    return lines + [
        Text(f"failed: {failure.name} ({failure.key}): {failure.cause}", "red")
        for failure in progress.failures
        if failure.key not in present
    ]
