"""The table of recursions: every generation of an aligner and its student."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sweeps.report.load import Board, Cell
from sweeps.report.tables import Field, Table, percent
from w2s import statistics

COLUMNS = (
    *("block", "weak > strong", "method", "loss", "generation", "aligner", "student"),
    *("agreement on val", "labels kept", "reported"),
)
NOTE = (
    "Aligner and student: test accuracy. Agreement: share of val on which they say the same, by "
    "which a generation is chosen; no truth takes part. Labels kept: share of the student's labels "
    "that the next aligner learnt. Reported: runs, of all seeds and tasks, that chose this "
    "generation's student."
)


def generations_table(board: Board) -> Table | None:
    """A line for each generation of each cell; None if there are none."""
    rows = [line for cell in board.cells for line in _lines(board, cell)]
    return Table("Generations", COLUMNS, tuple(rows), NOTE) if rows else None


def _lines(board: Board, cell: Cell) -> Iterator[tuple[Field, ...]]:
    students = [keys.student for seeds in cell.by_task for keys in seeds]
    frame = board.results.generations
    frame = frame.loc[frame["key"].isin(students)]
    for number in sorted(set(frame["number"])):
        names = [f"{role} {number}" for role in ("aligner", "student")]
        if not set(names) <= set(cell.arms):
            continue
        mine = frame.loc[frame["number"] == number]
        chosen = int(mine["selected"].to_numpy().sum())
        yield (
            Field(cell.block),
            Field(f"{cell.weak} > {cell.strong}"),
            Field(cell.method),
            Field(cell.loss),
            Field(str(number), number),
            *(percent(statistics.mean_over(board.arm(cell, name)).estimate) for name in names),
            _share(mine["agreement"]),
            _share(mine["kept_share"]),
            Field(f"{chosen} of {len(students)}", chosen),
        )


def _share(values: pd.Series) -> Field:
    """The mean, as a percentage; a dash where no run has the number."""
    found = values.to_numpy(np.float64)
    if np.isnan(found).all():
        return Field("-", -1.0, "faint")
    return Field(f"{100 * np.nanmean(found):.1f} %", float(np.nanmean(found)))
