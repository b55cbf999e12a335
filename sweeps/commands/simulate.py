"""`w2s plan FILE --cluster gpus=N,...`: a sweep played on an imagined cluster."""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps.demands import Cluster, demands, kinds, on_paper, parse_cluster, sizes
from sweeps.load import load
from sweeps.plan import Plan, Planner, planned_stages
from sweeps.simulate import Schedule, schedule


def run(arguments: argparse.Namespace) -> int:
    """Plan on paper, play it, print."""
    cluster = parse_cluster(arguments.cluster)
    sweep, _ = load(arguments.file, arguments.overrides)
    planner = Planner(sweep, on_paper)
    planner.check()
    plan, searched = planned_stages(planner)
    jobs = demands(plan, cluster, sizes(planner, cluster))
    played = schedule(jobs, gpus=cluster.gpus, cpus=cluster.num_cpus)
    if arguments.json:
        print(json.dumps(_figures(played, plan, cluster, searched)))
        return 0
    console = Console()
    if not console.is_terminal:
        console.width = 160
    _kinds(console, played)
    _critical_path(console, played)
    _summary(console, played, plan, searched)
    console.print("assumptions:")
    for sentence in cluster.assumptions():
        console.print(f"- {sentence}", highlight=False)
    return 0


def _kinds(console: Console, played: Schedule) -> None:
    table = Table(title="on paper, by kind of stage", title_justify="left")
    table.add_column("kind")
    for name in ("stages", "GPUs", "median", "longest", "GPU-hours", "share"):
        table.add_column(name, justify="right")
    for row in _by_kind(played):
        few, many = row["gpus"]
        table.add_row(
            row["kind"],
            f"{row['stages']:,}",
            f"{few}" if few == many else f"{few}-{many}",
            time_of(row["median_s"]),
            time_of(row["longest_s"]),
            f"{row['gpu_hours']:,.1f}",
            f"{row['share']:.1%}",
        )
    console.print(table)


def _by_kind(played: Schedule) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind, jobs in kinds(run.job for run in played.runs.values()).items():
        seconds = sorted(job.seconds for job in jobs)
        spent = sum(job.gpus * job.seconds for job in jobs)
        rows.append(
            {
                "kind": kind,
                "stages": len(jobs),
                "gpus": [min(job.gpus for job in jobs), max(job.gpus for job in jobs)],
                "median_s": seconds[len(seconds) // 2],
                "longest_s": seconds[-1],
                "gpu_hours": spent / 3600,
                "share": spent / played.computing if played.computing else 0.0,
            }
        )
    return rows


def _critical_path(console: Console, played: Schedule) -> None:
    table = Table(title="critical path: the chain of stages that ends last", title_justify="left")
    table.add_column("stage")
    for name in ("GPUs", "waited for room", "from", "took"):
        table.add_column(name, justify="right")
    for run in played.critical_path():
        table.add_row(
            run.job.name,
            str(run.job.gpus),
            time_of(run.waited),
            time_of(run.start),
            time_of(run.end - run.start),
        )
    console.print(table)


def _summary(console: Console, played: Schedule, plan: Plan, searched: int) -> None:
    whole = played.gpus * played.makespan
    chain = played.critical_path()
    console.print(
        f"{len(plan):,} stages, {len(plan.trainings):,} trainings: {time_of(played.makespan)} on "
        f"{played.gpus} GPUs, of which at most {played.most_gpus} are in use at a time",
        highlight=False,
    )
    console.print(
        f"{played.computing / 3600:,.1f} GPU-hours of computing, {played.starting / 3600:,.1f} of "
        f"starting and loading; of the cluster's {whole / 3600:,.1f} GPU-hours "
        f"{played.idle_share:.1%} compute nothing",
        highlight=False,
    )
    work = sum(run.end - run.start for run in chain)
    console.print(
        f"the critical path works for {time_of(work)} and waits for room for "
        f"{time_of(sum(run.waited for run in chain))}",
        highlight=False,
    )
    if searched:
        console.print(f"the search's further {searched} points are not in it", highlight=False)


def _figures(played: Schedule, plan: Plan, cluster: Cluster, searched: int) -> dict[str, Any]:
    return {
        "makespan_s": played.makespan,
        "gpu_hours_computing": played.computing / 3600,
        "gpu_hours_starting": played.starting / 3600,
        "gpu_hours_of_cluster": played.gpus * played.makespan / 3600,
        "idle_share": played.idle_share,
        "most_gpus": played.most_gpus,
        "stages": len(plan),
        "trainings": len(plan.trainings),
        "points_of_search_left_out": searched,
        "kinds": _by_kind(played),
        "critical_path": [
            {
                "key": run.job.key,
                "name": run.job.name,
                "gpus": run.job.gpus,
                "waited_s": run.waited,
                "start_s": run.start,
                "end_s": run.end,
            }
            for run in played.critical_path()
        ],
        "cluster": cluster.model_dump(),
        "assumptions": cluster.assumptions(),
    }


def time_of(seconds: float) -> str:
    """A time as people say it: `12.3 s`, `4.5 min`, `6.7 h`, `3.2 days`."""
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"
