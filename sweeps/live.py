"""What a person sees while a sweep runs: stages by kind, the running ones, and the trials so far.

`LiveView` redraws a block in a terminal; elsewhere (a file, a pipe, `plain=True`) it prints
lines: one per stage or trial that ended, and at most one summary every ten seconds. It reads the
broker's snapshots and the trials from a thread of its own and never disturbs the sweep: an error
in here is logged once and the view goes on.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeps.estimate import seconds_left
from sweeps.events import BrokerSnapshot, RunningStage, StageEvent, State

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
"""Seconds between two drawings."""
SUMMARY_S = 10.0
"""Least seconds between two summaries in plain mode."""
MAX_TRIALS = 12
"""Trials shown."""
MAX_RUNNING = 6
"""Running stages shown."""
MAX_WAITING = 4
"""Groups of waiting stages shown."""

TrialStatus = Literal["waiting", "running", "done", "failed", "stopped"]
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


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One trial as it stands."""

    name: str
    """Short name, such as `xs>xl naive xent`."""
    status: TrialStatus
    """How it stands."""
    seeds_done: int
    """Finished seeds."""
    num_seeds: int
    """Seeds asked for."""
    objective: float | None = None
    """Mean over finished seeds of the score on `val`."""
    floor: float | None = None
    """Test accuracy of the weak model alone."""
    supervisor: float | None = None
    """Test accuracy of the supervisor as the method assists it."""
    student: float | None = None
    """Test accuracy of the student."""
    ceiling: float | None = None
    """Test accuracy of the ceiling."""
    cause: str = ""
    """Why it failed."""


class LiveView:
    """Shows a sweep until `stop`; a context manager."""

    def __init__(
        self,
        poll: Callable[[], BrokerSnapshot],
        trials: Callable[[], Sequence[TrialLine]],
        *,
        title: str = "",
        plain: bool = False,
        console: Console | None = None,
    ) -> None:
        """Prepare the view; `start` or entering the context shows it.

        Args:
            poll: the broker's state; called twice a second, from another thread.
            trials: every trial handed out so far, oldest first; called likewise.
            title: first line, such as the sweep's name.
            plain: print lines even in a terminal.
            console: where to write; None: stdout.
        """
        self._poll = poll
        self._trials = trials
        self._title = title
        self._console = console or Console()
        self._plain = plain or not self._console.is_terminal
        self._events: queue.SimpleQueue[StageEvent] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="live-view", daemon=True)
        self._started = time.monotonic()
        self._failures: list[str] = []
        self._told: dict[int, TrialStatus] = {}
        self._last_summary = ""
        self._last_summary_at = self._started
        self._complained = False

    def __enter__(self) -> Self:
        """Show it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Draw the last state and stop."""
        self.stop()

    def start(self) -> None:
        """Show it, from a thread of its own."""
        self._started = self._last_summary_at = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Draw the last state and stop; returns within five seconds even if the broker is gone."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def note(self, event: StageEvent) -> None:
        """Tell of a stage that ended: a line in plain mode; its cause in both, if it failed."""
        self._events.put(event)

    def _work(self) -> None:
        if self._plain:
            while not self._stopping.wait(INTERVAL_S):
                self._safely(self._print_news)
            self._safely(lambda: self._print_news(last=True))
            return
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                last = self._stopping.wait(INTERVAL_S)
                self._safely(lambda: live.update(self._drawing(), refresh=True))
                if last:
                    return

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if not self._complained:
                logger.warning("the live view misses a beat: %s: %s", type(error).__name__, error)
                self._complained = True

    # Plain lines.

    def _print_news(self, last: bool = False) -> None:
        elapsed = _clock(time.monotonic() - self._started)
        for event in self._take_events():
            line = f"[{elapsed}] {event.kind} {event.state}: {event.name} ({event.key})"
            if event.record is not None:
                line += f" in {event.record.wall_s:.1f} s"
            self._print(line + (f": {event.cause}" if event.cause else ""))
        trials = self._trials()
        for index, trial in enumerate(trials):
            if (
                trial.status in ("done", "failed", "stopped")
                and self._told.get(index) != trial.status
            ):
                self._told[index] = trial.status
                self._print(f"[{elapsed}] trial {trial.status}: {trial.name}{_scores(trial)}")
        now = time.monotonic()
        if not last and now - self._last_summary_at < SUMMARY_S:
            return
        summary = self._summary(self._poll(), trials)
        if summary != self._last_summary:
            self._print(f"[{elapsed}] {summary}")
            self._last_summary, self._last_summary_at = summary, now

    def _print(self, line: str) -> None:
        # Neither wrapped at the width that rich assumes for a file, nor read as markup.
        self._console.print(Text(line), soft_wrap=True)

    def _summary(self, snapshot: BrokerSnapshot, trials: Sequence[TrialLine]) -> str:
        parts = [
            "stages " + ", ".join(f"{snapshot.total(state)} {state}" for state, _ in _COLUMNS),
            f"trials {_counted(trials)}",
        ]
        if snapshot.running:
            parts.append("now " + ", ".join(map(_running_words, snapshot.running[:MAX_RUNNING])))
        parts += _waiting_lines(snapshot)
        remaining = seconds_left(snapshot)
        if remaining is not None:
            parts.append(f"about {_clock(remaining)} left")
        return "; ".join(parts)

    # The block in a terminal.

    def _drawing(self) -> RenderableType:
        for event in self._take_events():
            if event.state == "failed":
                self._failures.append(f"{event.name}: {event.cause}")
        snapshot, trials = self._poll(), self._trials()
        remaining = seconds_left(snapshot)
        head = Text.assemble(
            (self._title, "bold"),
            f"  {_clock(time.monotonic() - self._started)} elapsed",
            f", about {_clock(remaining)} left" if remaining is not None else "",
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
            room = max(3, min(MAX_TRIALS, self._console.size.height - used))
            parts += ["", _trial_table(trials, room)]
        parts += [
            Text(f"failed: {failure}", "red", no_wrap=True, overflow="ellipsis")
            for failure in self._failures[-3:]
        ]
        return Group(*parts)

    def _take_events(self) -> list[StageEvent]:
        """Stages that ended since the last call, without those that were only looked up."""
        taken = []
        while not self._events.empty():
            event = self._events.get()
            if event.state != "cached":
                taken.append(event)
        return taken


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
            _clock(elapsed),
            _clock(left) if left is not None else "",
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


def _scores(trial: TrialLine) -> str:
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
        when = f" in {_clock(max(0.0, group.until - snapshot.time))}" if group.until else ""
        lines.append(group.words + when)
    hidden = sum(group.number for group in groups[MAX_WAITING:])
    return [*lines, f"{hidden} more wait"] if hidden else lines


def _clock(seconds: float) -> str:
    """`1:05` or `2:03:09`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
