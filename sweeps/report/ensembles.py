"""The table of ensembles: what their members are like, and what combining them brings."""

from collections.abc import Iterator, Sequence

import numpy as np

from sweeps.report.load import Board, Cell
from sweeps.report.tables import Field, Table, percent
from w2s import statistics
from w2s.diversity import Diversity, diversity

COLUMNS = (
    *("block", "weak > strong", "method", "members", "mean of members", "ensemble"),
    *("disagreement", "Q", "ambiguity"),
)
NOTE = (
    "Members and ensemble are supervisors, scored on test. Disagreement: share of rows on which "
    "two members differ, the mean over pairs. Q: 1 if two members err on the same rows, 0 if "
    "independently. Ambiguity: mean Brier score of the members minus that of the ensemble."
)


def ensembles_table(board: Board) -> Table | None:
    """A line for each ensemble, once; None if there are none."""
    rows = []
    seen: set[tuple[str, ...]] = set()
    for cell in board.cells:
        # Cells that differ in the student's loss have the same supervisors.
        supervisors = tuple(keys.supervisor for seeds in cell.by_task for keys in seeds)
        if not cell.has_members or supervisors in seen:
            continue
        seen.add(supervisors)
        found = list(_diversities(board, cell))
        if not found:
            continue
        disagreement = float(np.mean([each.disagreement for each in found]))
        ambiguity = float(np.mean([each.ambiguity for each in found]))
        defined = [each.q_statistic for each in found if not np.isnan(each.q_statistic)]
        numbers = sorted({len(keys.members) for seeds in cell.by_task for keys in seeds})
        rows.append(
            (
                Field(cell.block),
                Field(f"{cell.weak} > {cell.strong}"),
                Field(cell.method),
                Field(" to ".join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))),
                percent(statistics.mean_over(board.members(cell)).estimate),
                percent(statistics.mean_over(board.accuracy(cell, "supervisor")).estimate),
                Field(f"{100 * disagreement:.1f} %", disagreement),
                _q_field(defined),
                Field(f"{ambiguity:+.3f}", ambiguity),
            )
        )
    return Table("Ensembles", COLUMNS, tuple(rows), NOTE) if rows else None


def _q_field(values: Sequence[float]) -> Field:
    if not values:
        return Field("-", -2.0, "faint")
    return Field(f"{np.mean(values):.2f}", float(np.mean(values)))


def _diversities(board: Board, cell: Cell) -> Iterator[Diversity]:
    """One for each task and seed."""
    for seeds in cell.by_task:
        for keys in seeds:
            members = [board.samples.rows(key) for key in keys.members]
            if len(members) > 1:
                yield diversity(
                    np.stack([rows.probabilities for rows in members]),
                    board.samples.rows(keys.supervisor).probabilities,
                    members[0].label,
                )
