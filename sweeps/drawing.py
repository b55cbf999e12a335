"""Tables and lines that show how a sweep stands; for the live view and `w2s status`."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.estimate import seconds_left
from sweeps.events import BrokerSnapshot, RunningStage, State
from sweeps.progress import TrialLine, TrialStatus

MAX_TRIALS = 12
"""Trials shown."""
MAX_RUNNING = 6
"""Running stages shown."""
MAX_WAITING = 6
"""Groups of waiting stages shown."""

_STYLE: dict[TrialStatus, str] = {
    "waiting": "dim",
    "running": "cyan",
    "done": "",
    "failed": "red",
    "stopped": "yellow",
}
_COLUMNS: tuple[tuple[State, str], ...] = (
    ("planned", "dim"),
    ("cached", "blue"),
    ("running", "cyan"),
    ("done", "green"),
    ("failed", "red"),
)


def summary(snapshot: BrokerSnapshot, trials: Sequence[TrialLine]) -> str:
    """How a sweep stands, in one line."""
    parts = [
        "stages " + ", ".join(f"{snapshot.total(state)} {state}" for state, _ in _COLUMNS),
        f"trials {_counted(trials)}",
    ]
    if snapshot.running:
        parts.append("now " + ", ".join(map(_running_words, snapshot.running[:MAX_RUNNING])))
    parts += _waiting_lines(snapshot)
    remaining = seconds_left(snapshot)
    if remaining is not None:
        parts.append(f"about {clock(remaining)} left")
    return "; ".join(parts)


def block(
    title: str,
    elapsed_s: float,
    snapshot: BrokerSnapshot,
    trials: Sequence[TrialLine],
    failures: Iterable[str],
    height: int,
) -> RenderableType:
    """How a sweep stands, in tables.

    Args:
        title: first line, such as the sweep's name.
        elapsed_s: seconds since its run began.
        snapshot: its stages.
        trials: its trials, oldest first.
        failures: what failed, in words.
        height: lines there are.
    """
    remaining = seconds_left(snapshot)
    head = Text.assemble(
        (title, "bold"),
        f"  {clock(elapsed_s)} elapsed",
        f", about {clock(remaining)} left" if remaining is not None else "",
        (f"  serving {', '.join(snapshot.served)}" if snapshot.served else "", "dim"),
    )
    parts: list[RenderableType] = [head, "", _stage_table(snapshot)]
    if snapshot.running:
        parts += ["", _running_table(snapshot)]
    if snapshot.waiting:
        parts += ["", *(Text(words, "dim") for words in _waiting_lines(snapshot))]
    if trials:
        used = len(snapshot.counts) + min(len(snapshot.running), MAX_RUNNING) + 10
        used += min(len(snapshot.waiting), MAX_WAITING) + 1
        parts += ["", _trial_table(trials, max(3, min(MAX_TRIALS, height - used)))]
    parts += [
        Text(f"failed: {failure}", "red", no_wrap=True, overflow="ellipsis") for failure in failures
    ]
    return Group(*parts)


def _stage_table(snapshot: BrokerSnapshot) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stages", no_wrap=True)
    table.add_column("", width=20)
    for state, _ in _COLUMNS:
        table.add_column(state, justify="right")
    for kind, counts in snapshot.counts.items():
        ended = sum(counts.get(state, 0) for state in ("cached", "done", "failed", "cancelled"))
        total = ended + counts.get("planned", 0) + counts.get("running", 0)
        table.add_row(
            Text(kind),
            ProgressBar(total=max(total, 1), completed=ended, width=20),
            *(_count(counts.get(state, 0), style) for state, style in _COLUMNS),
        )
    return table


def _count(number: int, style: str) -> Text:
    return Text(str(number), style) if number else Text("·", "dim")


def _running_table(snapshot: BrokerSnapshot) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("running", no_wrap=True, overflow="ellipsis", max_width=44)
    table.add_column("", width=20)
    table.add_column("step", justify="right")
    table.add_column("elapsed", justify="right")
    table.add_column("left", justify="right")
    table.add_column("", no_wrap=True, style="dim")
    for stage in snapshot.running[:MAX_RUNNING]:
        elapsed = snapshot.time - stage.started
        known = stage.total > 0
        left = elapsed * (stage.total - stage.step) / stage.step if known and stage.step else None
        table.add_row(
            Text(stage.name),
            ProgressBar(total=stage.total, completed=stage.step, width=20) if known else "",
            f"{stage.step}/{stage.total}" if known else "",
            clock(elapsed),
            clock(left) if left is not None else "",
            Text(
                f"waits for {stage.waits_for}"
                if stage.waits_for
                else " ".join(
                    f"{name} {value:.4g}" for name, value in list(stage.metrics.items())[:3]
                )
            ),
        )
    hidden = len(snapshot.running) - MAX_RUNNING
    if hidden > 0:
        table.add_row(Text(f"and {hidden} more", "dim"))
    return table


def _trial_table(trials: Sequence[TrialLine], room: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(f"trials: {_counted(trials)}", no_wrap=True, overflow="ellipsis", max_width=60)
    for name in ("seeds", "val", "floor", "supervisor", "student", "ceiling"):
        table.add_column(name, justify="right")
    table.add_column("", no_wrap=True, overflow="ellipsis", style="red")
    begun = [trial for trial in trials if trial.status != "waiting"]
    for trial in begun[-room:]:
        table.add_row(
            Text(trial.name, _STYLE[trial.status]),
            f"{trial.seeds_done}/{trial.num_seeds}",
            *(
                "" if score is None else f"{score:.3f}"
                for score in (
                    trial.objective,
                    trial.floor,
                    trial.supervisor,
                    trial.student,
                    trial.ceiling,
                )
            ),
            Text(trial.cause),
        )
    return table


def _counted(trials: Sequence[TrialLine]) -> str:
    statuses = [trial.status for trial in trials]
    found = [f"{statuses.count(s)} {s}" for s in _STYLE if s in statuses]
    return ", ".join(found) or "none yet"


def scores(trial: TrialLine) -> str:
    """What a trial came to, to follow its name."""
    if trial.cause:
        return f": {trial.cause}"
    named = {
        "val": trial.objective,
        "floor": trial.floor,
        "supervisor": trial.supervisor,
        "student": trial.student,
        "ceiling": trial.ceiling,
    }
    shown = [f"{name} {value:.3f}" for name, value in named.items() if value is not None]
    return f": {', '.join(shown)}" if shown else ""


def _running_words(stage: RunningStage) -> str:
    if stage.waits_for:
        return f"{stage.name} (waits for {stage.waits_for})"
    return f"{stage.name} {stage.step}/{stage.total}" if stage.total else stage.name


def _waiting_lines(snapshot: BrokerSnapshot) -> list[str]:
    """What waits for what, in words; the largest groups first."""
    groups = sorted(snapshot.waiting, key=lambda group: -group.number)
    lines = []
    for group in groups[:MAX_WAITING]:
        when = f" in {clock(max(0.0, group.until - snapshot.time))}" if group.until else ""
        lines.append(group.words + when)
    hidden = sum(group.number for group in groups[MAX_WAITING:])
    return [*lines, f"{hidden} more wait"] if hidden else lines


def clock(seconds: float) -> str:
    """`1:05` or `2:03:09`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
