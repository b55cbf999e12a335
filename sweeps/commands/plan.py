"""`w2s plan`: what a sweep would run, without running anything."""

import argparse
from collections import Counter

from rich.console import Console
from rich.table import Table

from sweeps.config import Runtime, Sweep, load
from sweeps.plan import Plan, Planner, Point
from sweeps.store import ArtifactStore
from w2s.stages.base import Stage
from w2s.tasks.base import load as load_task
from w2s.types import SPLITS

MAX_NOTES = 12
"""Notes of loaders that are shown unasked; many tasks have many."""


def run(arguments: argparse.Namespace) -> int:
    """Validate and print."""
    sweep, runtime = load(arguments.file, arguments.overrides)
    planner = Planner(sweep)
    planner.check()
    console = Console()
    _splits(console, planner, all_notes=arguments.notes)
    plan, per_trial, searched = planned_stages(planner)
    store = ArtifactStore(runtime.store)
    cached = store.present(list(plan.stages.values()))
    _stages(console, plan, cached, per_trial)
    _summary(console, sweep, runtime, planner, plan, cached, searched)
    if arguments.keys:
        for stage in plan.stages.values():
            print(f"{'cached ' if stage.key in cached else 'planned'}  {stage.key}  {stage.name}")
    return 0


def planned_stages(planner: Planner) -> tuple[Plan, Counter[str], int]:
    """The stages of every cell, searched ones at the file's own values.

    Returns:
        The plan, stages by kind without any sharing, and the number of points a search will add.
    """
    roots: list[Stage] = []
    searched = 0
    for cell in planner.cells():
        searched += max(0, cell.num_trials - 1)
        for roles in planner.roles(Point(cell)).values():
            roots.extend(roles)
    plan = Plan(roots)
    unshared: Counter[str] = Counter()
    below: dict[str, Counter[str]] = {}
    for root in roots:
        if root.key not in below:
            below[root.key] = Plan([root]).counts
        unshared += below[root.key]
    return plan, unshared, searched


def _splits(console: Console, planner: Planner, *, all_notes: bool) -> None:
    table = Table(title="splits (rows; a group of rows is in one split only)", title_justify="left")
    table.add_column("task")
    for split in SPLITS:
        table.add_column(split, justify="right")
    table.add_column("test: share of class 1", justify="right")
    notes: list[str] = []
    for index, task in enumerate(planner.sweep.tasks):
        loaded = load_task(task)
        rows = loaded.rows
        positive = sum(row.label == 1 for row in rows["test"]) / len(rows["test"])
        counts = (str(len(rows[split])) for split in SPLITS)
        table.add_row(planner.task_label(index), *counts, f"{positive:.3f}")
        notes.extend(f"{planner.task_label(index)}: {note}" for note in loaded.notes)
    console.print(table)
    shown = notes if all_notes or len(notes) <= MAX_NOTES else []
    for note in shown:
        console.print(f"  {note}", highlight=False)
    if len(shown) < len(notes):
        console.print(
            f"{len(notes)} notes on what was dropped, balanced and cut: `w2s plan FILE --notes`",
            highlight=False,
        )
    console.print(
        "weak_train: ground truth for the weak model · strong_train: weak labels for the student, "
        "ground truth for the ceiling · val: search · test: every number in the report",
        style="dim",
    )


def _stages(console: Console, plan: Plan, cached: set[str], unshared: Counter[str]) -> None:
    table = Table(title="stages", title_justify="left")
    for name in (
        "kind",
        "planned",
        "of these cached",
        "without sharing",
        "est. core-minutes to do",
    ):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, count in sorted(plan.counts.items()):
        stages = [stage for stage in plan.stages.values() if stage.kind == kind]
        hits = sum(stage.key in cached for stage in stages)
        left = sum(stage.cost() for stage in stages if stage.key not in cached)
        table.add_row(kind, str(count), str(hits), str(unshared[kind]), f"{left / 60:.1f}")
    console.print(table)


def _summary(
    console: Console,
    sweep: Sweep,
    runtime: Runtime,
    planner: Planner,
    plan: Plan,
    cached: set[str],
    searched: int,
) -> None:
    cells = planner.cells()
    left = sum(stage.cost() for stage in plan.stages.values() if stage.key not in cached)
    console.print(
        f"{len(cells)} grid points x {len(sweep.seeds)} seeds; {len(plan.trainings)} trainings "
        f"instead of {plan.num_unshared} without sharing",
        highlight=False,
    )
    if searched:
        console.print(
            f"the search adds up to {searched} points, {searched * len(sweep.seeds)} students",
            highlight=False,
        )
    console.print(
        f"estimated {left / 60:.1f} core-minutes for what is not cached (search excluded); "
        f"store {runtime.store}, tracking {runtime.tracking_uri}",
        highlight=False,
    )
