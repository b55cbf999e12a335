"""`w2s status`: what the store holds, as a whole or for one sweep."""

import argparse
from collections import Counter

from rich.console import Console
from rich.table import Table

from sweeps.store import ArtifactStore


def run(arguments: argparse.Namespace) -> int:
    """Print counts."""
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
    from sweeps.commands.plan import planned_stages
    from sweeps.driver import studies_dir
    from sweeps.load import load
    from sweeps.plan import Plan, Planner
    from sweeps.search import recorded_points

    sweep, runtime = load(arguments.file, arguments.overrides)
    store = ArtifactStore(arguments.store or runtime.store)
    planner = Planner(sweep)
    points = recorded_points(planner, studies_dir(store))
    if points is None:
        plan = planned_stages(planner)[0]
    else:
        plan = Plan(
            root for point in points for roles in planner.roles(point).values() for root in roles
        )
    present = store.present(plan.stages.values())
    done = Counter(stage.kind for stage in plan.stages.values() if stage.key in present)
    table = Table(title=f"sweep {sweep.name} in {store.root}", title_justify="left")
    for name in ("kind", "stages", "cached", "missing"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, count in sorted(plan.counts.items()):
        table.add_row(kind, str(count), str(done[kind]), str(count - done[kind]))
    console = Console()
    console.print(table)
    if points is None:
        console.print("the search has points to suggest that are not counted here")
    elif len(present) == len(plan):
        console.print("complete: `w2s run` would run nothing")
    return 0
