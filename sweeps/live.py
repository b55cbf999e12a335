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
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from sweeps.drawing import block, clock, scores, summary
from sweeps.events import BrokerSnapshot, StageEvent
from sweeps.progress import TrialLine, TrialStatus

logger = logging.getLogger(__name__)

INTERVAL_S = 0.5
"""Seconds between two drawings."""
SUMMARY_S = 10.0
"""Least seconds between two summaries in plain mode."""
MAX_FAILURES = 3
"""Failures shown."""


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
        elapsed = clock(time.monotonic() - self._started)
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
                self._print(f"[{elapsed}] trial {trial.status}: {trial.name}{scores(trial)}")
        now = time.monotonic()
        if not last and now - self._last_summary_at < SUMMARY_S:
            return
        news = summary(self._poll(), trials)
        if news != self._last_summary:
            self._print(f"[{elapsed}] {news}")
            self._last_summary, self._last_summary_at = news, now

    def _print(self, line: str) -> None:
        # Neither wrapped at the width that rich assumes for a file, nor read as markup.
        self._console.print(Text(line), soft_wrap=True)

    # The block in a terminal.

    def _drawing(self) -> RenderableType:
        for event in self._take_events():
            if event.state == "failed":
                self._failures.append(f"{event.name}: {event.cause}")
        return block(
            self._title,
            time.monotonic() - self._started,
            self._poll(),
            self._trials(),
            self._failures[-MAX_FAILURES:],
            self._console.size.height,
        )

    def _take_events(self) -> list[StageEvent]:
        """Stages that ended since the last call, without those that were only looked up."""
        taken = []
        while not self._events.empty():
            event = self._events.get()
            if event.state != "cached":
                taken.append(event)
        return taken
