"""Methods and losses in one order: how much better than the plain student, and how sure is that.

A line of the ranking is a method with a loss in a block, over all pairs and tasks that it shares
with the plain student (`naive`, `xent`) trained by the same recipes; both are scored there alone.
P-values are of the paired difference and are corrected for their number (Holm).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sweeps.report.load import Board, Cell
from sweeps.report.scoring import (
    PLAIN_LOSS,
    PLAIN_METHOD,
    MedianPgr,
    effect_of,
    find,
    median_pgr,
    on_shared,
)
from w2s import statistics
from w2s.statistics import Estimate, Power, Resampled


@dataclass(frozen=True, slots=True)
class Ranked:
    """One method with one loss."""

    rank: int
    """Place by the gain over the plain student, from 1."""
    block: str
    """Name of the block."""
    method: str
    """Label of the method."""
    loss: str
    """Label of the loss."""
    num_searched: int
    """Points of the search that its students were chosen from; 0: no search."""
    num_pairs: int
    """Pairs of different models that it shares with the plain student."""
    num_units: int
    """Pairs times tasks that it shares with the plain student."""
    num_rows: int
    """Test rows of these tasks."""
    supervisor: Estimate
    """Test accuracy of those who supervise its students, the mean over pairs and tasks."""
    student: Estimate
    """Test accuracy of its students, the mean over pairs and tasks."""
    pgr: Estimate | None
    """PGR of the mean accuracies; None: the gap is too small."""
    median_pgr: MedianPgr | None
    """Median of the PGR over pairs and tasks."""
    gain: Estimate
    """Its students' accuracy minus the plain students'."""
    p_value: float | None
    """Two-sided, of no gain; None for the plain student."""
    adjusted: float | None
    """The same after Holm's correction over the ranking."""
    power: Power | None
    """What can be seen of the gain; None for the plain student."""


def ranking(board: Board) -> list[Ranked]:
    """Every method and loss that can be held against the plain student, best first."""
    groups: dict[tuple[str, str, str, bool], list[Cell]] = {}
    for cell in board.cells:
        if cell.weak != cell.strong:
            group = (cell.block, cell.method, cell.loss, cell.num_searched > 0)
            groups.setdefault(group, []).append(cell)
    lines: list[Ranked] = []
    seen: list[frozenset[str]] = []
    for cells in groups.values():
        students = _students(cells)
        # A block that repeats another's students to compare with adds nothing here.
        if any(students <= others for others in seen):
            continue
        line = _line(board, cells)
        if line is not None:
            seen.append(students)
            lines.append(line)
    tested = [line.p_value for line in lines if line.p_value is not None]
    adjusted = iter(statistics.holm(tested))
    lines = [
        replace(line, adjusted=next(adjusted)) if line.p_value is not None else line
        for line in lines
    ]
    lines.sort(key=lambda line: -line.gain.point)
    return [replace(line, rank=place) for place, line in enumerate(lines, start=1)]


def _students(cells: Sequence[Cell]) -> frozenset[str]:
    return frozenset(keys.student for cell in cells for trial in cell.trials for keys in trial.keys)


def _line(board: Board, cells: Sequence[Cell]) -> Ranked | None:
    """One line, on what these cells share with the plain ones; None if that is nothing."""
    mine: list[Resampled] = []
    plain: list[Resampled] = []
    supervisors: list[Resampled] = []
    floors: list[Resampled] = []
    ceilings: list[Resampled] = []
    num_pairs = 0
    rows_by_task: dict[str, int] = {}
    for cell in cells:
        other = find(board, cell, method=PLAIN_METHOD, loss=PLAIN_LOSS)
        shared = on_shared(cell, other) if other else None
        if shared is None:
            continue
        mine += board.accuracy(shared[0], "student")
        supervisors += board.accuracy(shared[0], "supervisor")
        floors += board.accuracy(shared[0], "floor")
        ceilings += board.accuracy(shared[0], "ceiling")
        plain += board.accuracy(shared[1], "student")
        num_pairs += 1
        for trial in shared[0].trials:
            rows_by_task[trial.task] = board.num_rows(shared[0].of_task(trial.task))
    if not mine:
        return None
    first, num_rows = cells[0], sum(rows_by_task.values())
    student, floor = statistics.mean_over(mine), statistics.mean_over(floors)
    gain = student - statistics.mean_over(plain)
    pgr = statistics.gap_recovered(student - floor, statistics.mean_over(ceilings) - floor)
    is_plain = (first.method, first.loss, first.num_searched) == (PLAIN_METHOD, PLAIN_LOSS, 0)
    return Ranked(
        rank=0,
        block=first.block,
        method=first.method,
        loss=first.loss,
        num_searched=first.num_searched,
        num_pairs=num_pairs,
        num_units=len(mine),
        num_rows=num_rows,
        supervisor=statistics.mean_over(supervisors).estimate,
        student=student.estimate,
        pgr=pgr.estimate if pgr is not None else None,
        median_pgr=median_pgr(floors, mine, ceilings),
        gain=gain.estimate,
        p_value=None if is_plain else gain.p_value,
        adjusted=None,
        power=None if is_plain else gain.power(num_rows, effect_of(board.results)),
    )
