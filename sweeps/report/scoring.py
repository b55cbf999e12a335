"""The numbers of the report: scores of each cell, and the paired differences that answer questions.

Everything is test accuracy; intervals are 95 % percentiles of a paired bootstrap over rows (whole
groups of them) and seeds (`w2s.statistics`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sweeps.report.load import Board, Cell
from w2s import statistics
from w2s.statistics import Comparison, Estimate

BOOTSTRAP_SEED = 0
PLAIN_METHOD = "naive"
PLAIN_LOSS = "xent"
SHUFFLED_LABELS = "shuffled_labels"
BETTER_SUPERVISOR = "Does assistance make a better supervisor?"
BETTER_LOSS = "Does the loss make a better student?"


@dataclass(frozen=True, slots=True)
class CellScores:
    """Test scores of one cell."""

    cell: Cell
    """What was scored."""
    compared: Comparison
    """Floor, student, ceiling, gap and PGR."""
    supervisor: Estimate
    """Accuracy of the supervisor as the method assists it; the floor where nothing does."""
    agreement: float
    """Share of rows on which student and supervisor predict the same class."""
    agreement_right: float
    """The same where the supervisor is right; NaN if it never is."""
    agreement_wrong: float
    """The same where the supervisor is wrong: its errors that the student repeats."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """One paired difference of test accuracy."""

    topic: str
    """Heading under which it stands."""
    where: str
    """Pair, and what else is the same on both sides."""
    first: str
    """What is compared."""
    second: str
    """With what."""
    estimate: Estimate
    """First minus second, as a share of rows."""
    num_rows: int
    """Test rows."""
    num_seeds: int
    """Seeds."""


def score(board: Board, cell: Cell) -> CellScores:
    """Score a cell."""
    groups = board.groups(cell)
    supervisor_SN = board.correct(cell, "supervisor")
    compared = statistics.compare(
        board.correct(cell, "floor"),
        board.correct(cell, "student"),
        board.correct(cell, "ceiling"),
        seed=BOOTSTRAP_SEED,
        groups=groups,
    )
    supervisor = compared.floor
    if cell.assisted:
        supervisor = statistics.mean(supervisor_SN, seed=BOOTSTRAP_SEED, groups=groups)
    same_SN = board.agree(cell)
    return CellScores(
        cell=cell,
        compared=compared,
        supervisor=supervisor,
        agreement=float(same_SN.mean()),
        agreement_right=_mean(same_SN[supervisor_SN == 1]),
        agreement_wrong=_mean(same_SN[supervisor_SN == 0]),
    )


def _mean(values: "np.ndarray") -> float:
    return float(values.mean()) if values.size else float("nan")


def contrasts(board: Board) -> Iterator[Contrast]:
    """Every difference that the sweep's cells allow, by topic, each asked once."""
    asked: set[tuple[str, str, str, str]] = set()
    for make in (_supervision, _debaters, _ensembles, _students, _losses, _controls):
        for contrast in make(board):
            identity = (contrast.topic, contrast.where, contrast.first, contrast.second)
            if identity not in asked:
                asked.add(identity)
                yield contrast


def _supervision(board: Board) -> Iterator[Contrast]:
    for cell in board.cells:
        if cell.assisted:
            yield _contrast(
                board,
                BETTER_SUPERVISOR,
                f"{cell.weak}>{cell.strong}",
                (f"supervisor, {cell.method}", board.correct(cell, "supervisor")),
                ("alone", board.correct(cell, "floor")),
                cell,
            )


def _debaters(board: Board) -> Iterator[Contrast]:
    """The plain debate against its variants: who argues, and whose debate is read."""
    for cell in board.cells:
        if cell.method != "debate":
            continue
        for other in board.cells:
            is_variant = other.method.startswith("debate(") and _same(cell, other, loss=True)
            if is_variant and (shared := _on_shared(cell, other)):
                yield _contrast(
                    board,
                    "Is it what the strong model says in the debate?",
                    f"{cell.weak}>{cell.strong}",
                    ("supervisor, debate", board.correct(shared[0], "supervisor")),
                    (other.method, board.correct(shared[1], "supervisor")),
                    shared[0],
                )


def _ensembles(board: Board) -> Iterator[Contrast]:
    for cell in board.cells:
        if cell.has_members:
            yield _contrast(
                board,
                "Is an ensemble better than its members?",
                f"{cell.weak}>{cell.strong}",
                (f"supervisor, {cell.method}", board.correct(cell, "supervisor")),
                ("mean of its members", board.members_correct(cell)),
                cell,
            )


def _students(board: Board) -> Iterator[Contrast]:
    for cell in board.cells:
        if cell.method in (PLAIN_METHOD, SHUFFLED_LABELS) or cell.weak == cell.strong:
            continue
        plain = _find(board, cell, method=PLAIN_METHOD, loss=cell.loss)
        if plain and (shared := _on_shared(cell, plain)):
            yield _contrast(
                board,
                "Does assistance make a better student?",
                f"{cell.weak}>{cell.strong}, {cell.loss}",
                (f"student, {cell.method}", board.correct(shared[0], "student")),
                (PLAIN_METHOD, board.correct(shared[1], "student")),
                shared[0],
            )


def _losses(board: Board) -> Iterator[Contrast]:
    for cell in board.cells:
        if cell.loss == PLAIN_LOSS:
            continue
        plain = _find(board, cell, method=cell.method, loss=PLAIN_LOSS)
        if plain and (shared := _on_shared(cell, plain)):
            searched = f", best of {cell.num_searched} on val" if cell.num_searched else ""
            yield _contrast(
                board,
                BETTER_LOSS,
                f"{cell.weak}>{cell.strong}, {cell.method}",
                (f"student, {cell.loss}{searched}", board.correct(shared[0], "student")),
                (PLAIN_LOSS, board.correct(shared[1], "student")),
                shared[0],
            )


def _controls(board: Board) -> Iterator[Contrast]:
    classes = {task.name: task.num_classes for task in board.results.summary.tasks}
    for cell in board.cells:
        student = board.correct(cell, "student")
        if cell.method == SHUFFLED_LABELS:
            chances = [
                np.full(board.correct(cell.of_task(trial.task), "student").shape[1], chance)
                for trial in cell.trials
                for chance in [1 / classes[trial.task]]
            ]
            yield _contrast(
                board,
                "Controls",
                f"{cell.weak}>{cell.strong}, {cell.loss}",
                ("student of shuffled labels", student),
                ("chance", np.tile(np.concatenate(chances), (len(student), 1))),
                cell,
            )
        elif cell.weak == cell.strong:
            yield _contrast(
                board,
                "Controls",
                f"{cell.weak}>{cell.strong}, {cell.method}, {cell.loss}",
                ("student of an equal model", student),
                ("its supervisor", board.correct(cell, "supervisor")),
                cell,
            )


def _same(first: Cell, second: Cell, *, loss: bool) -> bool:
    pair = (first.weak, first.strong) == (second.weak, second.strong)
    return pair and (not loss or first.loss == second.loss)


def _find(board: Board, cell: Cell, *, method: str, loss: str) -> Cell | None:
    """The cell of the same pair with this method and loss: of the same block, else of any."""
    found = [
        other
        for other in board.cells
        if _same(cell, other, loss=False) and (other.method, other.loss) == (method, loss)
    ]
    found.sort(key=lambda other: (other.block != cell.block, other.num_searched > 0))
    return found[0] if found else None


def _on_shared(first: Cell, second: Cell) -> tuple[Cell, Cell] | None:
    """Both cells cut down to the tasks and seeds they share; None if there are none."""
    seeds = set(first.seeds) & set(second.seeds)
    theirs = {trial.task: trial for trial in second.trials}
    tasks = [trial.task for trial in first.trials if trial.task in theirs]
    if not seeds or not tasks:
        return None

    def cut(cell: Cell) -> Cell:
        by_task = {trial.task: trial for trial in cell.trials}
        trials = tuple(
            by_task[task].model_copy(
                update={"keys": tuple(k for k in by_task[task].keys if k.seed in seeds)}
            )
            for task in tasks
        )
        return Cell(cell.block, cell.weak, cell.strong, cell.method, cell.loss, trials)

    return cut(first), cut(second)


def _contrast(
    board: Board,
    topic: str,
    where: str,
    first: "tuple[str, np.ndarray]",
    second: "tuple[str, np.ndarray]",
    cell: Cell,
) -> Contrast:
    estimate = statistics.difference(
        first[1], second[1], seed=BOOTSTRAP_SEED, groups=board.groups(cell)
    )
    num_seeds, num_rows = first[1].shape
    return Contrast(topic, where, first[0], second[0], estimate, num_rows, num_seeds)
