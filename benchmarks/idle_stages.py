"""Stages that compute nothing, for benchmarks of what is around stages, and what processes use.

No benchmark itself. The stages have a module of their own so that worker processes import them.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import SerializeAsAny

from w2s.stages.base import Lane, Stage, StageContext


class Zero(Stage):
    """A light stage without work."""

    index: int
    """Tells stages apart."""
    reads: tuple[SerializeAsAny[Stage], ...] = ()
    """What it needs first."""

    def run(self, context: StageContext) -> None:
        """Write one number."""
        (context.output_dir / "number.json").write_text(str(self.index))


class Sleep(Stage):
    """A training stage that waits instead of training."""

    lane: ClassVar[Lane] = "train"

    index: int
    """Tells stages apart."""
    seconds: float
    """Time it takes."""

    def cost(self) -> float:
        """Its time."""
        return self.seconds

    def run(self, context: StageContext) -> None:
        """Wait, and write one number."""
        time.sleep(self.seconds)
        (context.output_dir / "number.json").write_text(str(self.index))


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes have used since their start."""

    cpu_s: float = 0.0
    """Processor seconds."""
    memory_mb: float = 0.0
    """Most memory each ever held, added up."""

    def since(self, before: "Usage") -> "Usage":
        """Processor seconds since then; memory as it is."""
        return Usage(self.cpu_s - before.cpu_s, self.memory_mb)


def usage(title: str) -> Usage:
    """What processes that this one has started, and theirs, have used.

    Args:
        title: what their titles begin with, such as `ray::StageBroker`.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    cpu_s = memory_mb = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "cmdline").read_bytes().startswith(title.encode()):
                continue
            if not _is_below(int(folder.name), os.getpid()):
                continue
            times = (folder / "stat").read_text().rpartition(")")[2].split()
            status = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines()
            )
        except OSError:  # it has just ended
            continue
        cpu_s += (int(times[11]) + int(times[12])) / ticks
        memory_mb += int(status["VmHWM"].split()[0]) / 1024
    return Usage(cpu_s, memory_mb)


def _is_below(process: int, ancestor: int) -> bool:
    while process not in (0, ancestor):
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process == ancestor
