"""`w2s plan`: what a sweep would run, without running anything."""

import argparse
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from serving.budget import Usage
from sweeps.commands import simulate
from sweeps.config import SpeakerEntry, Sweep
from sweeps.load import load
from sweeps.placements import check_servable_models, described
from sweeps.plan import Plan, Planner, planned_stages
from sweeps.runtime import Runtime
from sweeps.servable import served_key
from sweeps.speakers import cache_folder, spent
from sweeps.store import ArtifactStore
from w2s.errors import UserError
from w2s.models.remote import RemoteModel
from w2s.models.source import PretrainedModel
from w2s.redaction import redacted
from w2s.stages.base import Requests, Stage
from w2s.stages.models import model_key
from w2s.tasks.base import load as load_task
from w2s.types import SPLITS

MAX_NOTES = 12
"""Notes of loaders that are shown unasked; many tasks have many."""


def run(arguments: argparse.Namespace) -> int:
    """Validate and print."""
    if arguments.cluster is not None:
        return simulate.run(arguments)
    if arguments.json:
        raise UserError("--json goes with --cluster")
    sweep, runtime = load(arguments.file, arguments.overrides)
    planner = Planner(sweep)
    planner.check()
    console = Console()
    _splits(console, planner, all_notes=arguments.notes)
    plan, searched = planned_stages(planner)
    store = ArtifactStore(runtime.store)
    cached = store.present(list(plan.stages.values()))
    _stages(console, plan, cached)
    _served(console, planner, runtime, plan, cached)
    _speakers(console, planner, plan, cached, cache_folder(runtime, store))
    _trusted(console, planner)
    _summary(console, sweep, runtime, planner, plan, cached, searched)
    if arguments.keys:
        for stage in plan.stages.values():
            print(f"{'cached ' if stage.key in cached else 'planned'}  {stage.key}  {stage.name}")
    return 0


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


def _stages(console: Console, plan: Plan, cached: set[str]) -> None:
    table = Table(title="stages", title_justify="left")
    for name in (
        "kind",
        "planned",
        "of these cached",
        "without sharing",
        "est. core-minutes to do",
    ):
        table.add_column(name, justify="left" if name == "kind" else "right")
    hits: Counter[str] = Counter()
    left: defaultdict[str, float] = defaultdict(float)
    for stage in plan.stages.values():
        if stage.key in cached:
            hits[stage.kind] += 1
        else:
            left[stage.kind] += stage.cost()
    for kind, count in sorted(plan.counts.items()):
        table.add_row(
            kind, str(count), str(hits[kind]), str(plan.unshared[kind]), f"{left[kind] / 60:.1f}"
        )
    console.print(table)


def _served(
    console: Console, planner: Planner, runtime: Runtime, plan: Plan, cached: set[str]
) -> None:
    """Which models would be served, for how many stages, and what that takes."""
    asking = Counter(
        served_key(model)
        for stage in plan.stages.values()
        if stage.key not in cached
        for model in stage.served_models
    )
    named = {
        name: model
        for models in (*planner.models, planner.speakers)
        for name, model in models.items()
        if served_key(model) in asking and not isinstance(model, RemoteModel)
    }
    if not named:
        return
    check_servable_models(runtime, named)
    table = Table(title="served models (what is not cached)", title_justify="left")
    table.add_column("name")
    table.add_column("stages", justify="right")
    table.add_column("takes")
    for name in named:
        models = {served_key(models[name]) for models in planner.models if name in models}
        if name in planner.speakers:
            models = {served_key(planner.speakers[name])}
        stages = sum(asking[key] for key in models)
        table.add_row(name, str(stages), described(runtime.placement_of(name)))
    console.print(table)


def _speakers(
    console: Console, planner: Planner, plan: Plan, cached: set[str], folder: Path
) -> None:
    """What the speakers would be asked, and what that may cost."""
    if not planner.sweep.speakers:
        return
    table = Table(
        title="speakers (what is not cached; answers and prices at most)", title_justify="left"
    )
    table.add_column("name")
    table.add_column("model")
    for name in ("requests", "tokens in", "tokens out", "price", "spent before"):
        table.add_column(name, justify="right")
    left = [stage for stage in plan.stages.values() if stage.key not in cached]
    booked, notes = spent(planner, folder), []
    for entry in planner.sweep.speakers:
        asked = asked_of(model_key(planner.speakers[entry.name]), left)
        where = f" at {entry.base_url}" if entry.base_url else ""
        before = booked.get(entry.name)
        table.add_row(
            entry.name,
            entry.model + where,
            f"{asked.number:,}",
            f"{asked.input_tokens:,}",
            f"{asked.output_tokens:,}",
            _price(entry, asked),
            f"{before.requests:,} requests, {before.tokens:,} tokens" if before else "",
        )
        notes.extend(_beyond_budget(entry, asked, before or Usage()))
        variable = entry.api_key_variable
        if variable is not None and variable not in os.environ:
            notes.append(
                f"speaker {entry.name}: {variable} is not in the environment; a run needs it"
            )
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)


def _trusted(console: Console, planner: Planner) -> None:
    """Which models bring code that the sweep lets run."""
    models = (model for named in (*planner.models, planner.speakers) for model in named.items())
    trusted = {
        name: model
        for name, model in models
        if isinstance(model, PretrainedModel) and model.trust_remote_code
    }
    for name, model in trusted.items():
        folder = Path(model.path)
        code = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))
        console.print(
            f"{name}: Python code of {model.path} "
            f"({', '.join(code) or f'commit {model.revision}'}) runs with your rights "
            "(trust_remote_code)",
            highlight=False,
            style="bold",
        )


def asked_of(model: str, stages: Iterable[Stage]) -> Requests:
    """What stages would ask of one model."""
    total = Requests(0, 0, 0)
    for stage in stages:
        total = total.plus(stage.requests().get(model, Requests(0, 0, 0)))
    return total


def _price(entry: SpeakerEntry, asked: Requests) -> str:
    if entry.price_per_million is None:
        return ""
    price_in, price_out = entry.price_per_million
    return f"{(asked.input_tokens * price_in + asked.output_tokens * price_out) / 1e6:,.2f}"


def _beyond_budget(entry: SpeakerEntry, asked: Requests, before: Usage) -> list[str]:
    """Sentences where an estimate does not fit into what is left of a budget."""
    tokens = asked.input_tokens + asked.output_tokens
    return [
        f"speaker {entry.name}: about {wanted:,} {what} are planned, and {limit - used:,} of "
        f"{limit:,} are left in {name}; the run would stop there"
        for name, what, limit, used, wanted in (
            ("max_requests", "requests", entry.max_requests, before.requests, asked.number),
            ("max_tokens", "tokens", entry.max_tokens, before.tokens, tokens),
        )
        if limit is not None and used + wanted > limit
    ]


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
        f"store {runtime.store}, tracking {redacted(runtime.tracking_uri)}",
        highlight=False,
    )
