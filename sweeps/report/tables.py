"""The tables of the report as plain values, which Markdown, HTML and CSV render alike.

`scores_tables` are the main ones, one per block; `contrasts_tables` hold the paired
differences, `search_tables` the points of each search, `failures_table` what went wrong.
`csv_rows` is the main table with every number.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from sweeps.report.load import Board
from sweeps.report.scoring import CellScores, Contrast
from sweeps.results import TrialResult
from w2s.stages.checkpoints import CHOICES
from w2s.statistics import Estimate, Power

GAP_TOO_SMALL = "gap too small"
MAX_SEARCH_ROWS = 10
"""Points of one search that are shown."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a table."""

    text: str
    """As people read it."""
    sort: float | None = None
    """Number to sort by; None sorts by the text."""
    tone: str = ""
    """Style of the field: `good`, `bad`, `faint` or none."""
    bar: tuple[tuple[str, float], ...] = ()
    """Roles and their accuracies, to be drawn on one scale where that can be done."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its heading."""

    title: str
    """Heading."""
    columns: tuple[str, ...]
    """Column names."""
    rows: tuple[tuple[Field, ...], ...]
    """Fields, as many in each row as there are columns."""
    note: str = ""
    """What a reader must know, below the heading."""


def scores_tables(
    scores: Sequence[CellScores], board: Board, effect: float | None = None
) -> list[Table]:
    """The main tables: floor, supervisor, student, ceiling and PGR, one table per block.

    Args:
        scores: cells.
        board: for blocks and failed trials.
        effect: gain that should be seen; a note says where it would not. None: no note.
    """
    blocks = list(dict.fromkeys([*board.results.summary.blocks, *(s.cell.block for s in scores)]))
    tables = []
    for block in blocks:
        mine = [scored for scored in scores if scored.cell.block == block]
        failed = [trial for trial in board.failures if trial.block == block]
        if mine or failed:
            tables.append(_scores_table(block, mine, failed, board, effect))
    return tables


SCORE_COLUMNS = (
    "task",
    "weak > strong",
    "method",
    "loss",
    "floor",
    "supervisor",
    "student",
    "ceiling",
    "PGR",
    "median PGR of tasks",
    "",
    "agreement (right / wrong)",
    "rows x seeds",
)
TASK_COLUMNS = (SCORE_COLUMNS.index("task"), SCORE_COLUMNS.index("median PGR of tasks"))
"""Columns that a sweep of one task has no use for."""


def _scores_table(
    block: str,
    scores: Sequence[CellScores],
    failed: Sequence[TrialResult],
    board: Board,
    effect: float | None,
) -> Table:
    left_out = () if len(board.results.summary.tasks) > 1 else TASK_COLUMNS
    rows = []
    for scored in scores:
        cell, compared = scored.cell, scored.compared
        rows.append(
            (
                Field(task_words(scored, board)),
                Field(f"{cell.weak} > {cell.strong}"),
                Field(cell.method),
                Field(cell.loss + (f" (best of {cell.num_searched})" if cell.num_searched else "")),
                percent(compared.floor),
                percent(scored.supervisor) if cell.assisted else Field("= floor", tone="faint"),
                percent(compared.student),
                percent(compared.ceiling),
                pgr_field(compared.pgr),
                _median_field(scored),
                Field("", bar=_marks(scored)),
                Field(
                    f"{_share(scored.agreement)} ({_share(scored.agreement_right)} / "
                    f"{_share(scored.agreement_wrong)})",
                    scored.agreement.point,
                ),
                Field(f"{compared.num_rows:,} x {compared.num_seeds}", compared.num_rows),
            )
        )
    failures: dict[tuple[str, str, str], list[str]] = {}
    for trial in failed:
        cell = f"{trial.weak} > {trial.strong}", trial.method, trial.loss
        failures.setdefault(cell, []).append(trial.task)
    for cell, tasks in failures.items():
        num_tasks = len(set(tasks))
        rows.append(
            (
                Field(tasks[0] if num_tasks == 1 else _counted(num_tasks, board)),
                *map(Field, cell),
                Field("failed", tone="bad"),
                *[Field("")] * (len(SCORE_COLUMNS) - 5),
            )
        )
    kept = [index for index in range(len(SCORE_COLUMNS)) if index not in left_out]
    note = ""
    if effect is not None:
        note = power_note([scored.power for scored in scores], effect, "gain of student over floor")
    return Table(
        block,
        tuple(SCORE_COLUMNS[index] for index in kept),
        tuple(tuple(row[index] for index in kept) for row in rows),
        note,
    )


def _median_field(scored: CellScores) -> Field:
    median = scored.median_pgr
    if median is None:
        return Field("-", -math.inf, "faint")
    total = len(scored.cell.trials)
    part = "" if median.num_tasks == total else f", {median.num_tasks} of {total} tasks"
    field = pgr_field(median.estimate)
    return Field(field.text + part, field.sort)


def task_words(scored: CellScores, board: Board) -> str:
    """Tasks of a cell in a word or two."""
    tasks = [trial.task for trial in scored.cell.trials]
    if len(tasks) == 1:
        return tasks[0]
    return _counted(len(tasks), board)


def _counted(num_tasks: int, board: Board) -> str:
    total = len(board.results.summary.tasks)
    return f"all {total}" if num_tasks == total else f"{num_tasks} of {total}"


def percent(estimate: Estimate) -> Field:
    """An accuracy in percent with its interval."""
    low, high = 100 * estimate.low, 100 * estimate.high
    return Field(f"{100 * estimate.point:.1f} [{low:.1f}, {high:.1f}]", estimate.point)


def pgr_field(pgr: Estimate | None) -> Field:
    """A PGR with its interval, or why there is none."""
    if pgr is None:
        return Field(GAP_TOO_SMALL, -math.inf, "faint")
    return Field(f"{pgr.point:.2f} [{pgr.low:.2f}, {pgr.high:.2f}]", pgr.point)


def _share(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{100 * estimate.point:.1f}"


def _marks(scored: CellScores) -> tuple[tuple[str, float], ...]:
    marks = [("floor", scored.compared.floor.point)]
    if scored.cell.assisted:
        marks.append(("supervisor", scored.supervisor.point))
    marks += [
        ("ceiling", scored.compared.ceiling.point),
        ("student", scored.compared.student.point),
    ]
    return tuple(marks)


def power_field(power: Power | None, effect: float) -> Field:
    """The smallest difference that would be found; and the rows to find the one asked for."""
    if power is None:
        return Field("-", -1.0, "faint")
    text = f"{100 * power.detectable:.1f}"
    if power.detectable <= effect:
        return Field(text, power.detectable)
    needed = "more seeds" if power.num_rows is None else f"{_rounded(power.num_rows):,} rows"
    return Field(f"{text} (needs {needed})", power.detectable, "faint")


def power_note(powers: Sequence[Power], effect: float, what: str) -> str:
    """How many comparisons could miss the effect asked for, and what would be enough."""
    short = [power for power in powers if power.detectable > effect]
    if not short:
        return ""
    largest = max(power.detectable for power in short)
    needed = [power.num_rows for power in short if power.num_rows is not None]
    sentence = (
        f"A {what} of {100 * effect:.1f} points could be missed (80 % power, two-sided 5 %) in "
        f"{len(short)} of {len(powers)} lines; the smallest that would be found is up to "
        f"{100 * largest:.1f} points."
    )
    if needed:
        sentence += f" {_rounded(max(needed)):,} test rows would be enough"
        sentence += " for all of them." if len(needed) == len(short) else f" for {len(needed)}."
    if len(needed) < len(short):
        sentence += f" {len(short) - len(needed)} need more seeds, whatever the rows."
    return sentence


def _rounded(number: int) -> int:
    """Two digits are all that such a number has."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


def difference_field(estimate: Estimate) -> Field:
    """A difference of accuracies, coloured where its interval excludes 0."""
    tone = "" if not estimate.excludes_zero else "good" if estimate.point > 0 else "bad"
    return Field(points(estimate), estimate.point, tone)


def contrasts_tables(contrasts: Sequence[Contrast], effect: float) -> list[Table]:
    """Paired differences, a table per question."""
    tables = []
    for topic in dict.fromkeys(contrast.topic for contrast in contrasts):
        mine = [contrast for contrast in contrasts if contrast.topic == topic]
        rows = tuple(
            (
                Field(contrast.where),
                Field(f"{contrast.first} - {contrast.second}"),
                difference_field(contrast.estimate),
                power_field(contrast.power, effect),
                Field(f"{contrast.num_rows:,} x {contrast.num_seeds}", contrast.num_rows),
            )
            for contrast in mine
        )
        columns = (
            *("weak > strong", "difference", "points of test accuracy"),
            *("detectable, points", "rows x seeds"),
        )
        note = power_note([contrast.power for contrast in mine], effect, "difference")
        tables.append(Table(topic, columns, rows, note))
    return tables


def points(estimate: Estimate) -> str:
    """A difference of accuracies in points with its interval."""
    low, high = 100 * estimate.low, 100 * estimate.high
    return f"{100 * estimate.point:+.1f} [{low:+.1f}, {high:+.1f}]"


def search_tables(board: Board) -> list[Table]:
    """The best points of each search by their score on `val`."""
    tables = []
    for trials in board.searches():
        first = trials[0]
        paths = list(dict.fromkeys(path for trial in trials for path in trial.hyperparameters))
        rows = tuple(
            (
                *(_hyperparameter(trial, path) for path in paths),
                Field("-", -1.0, "faint")
                if trial.objective is None
                else Field(f"{trial.objective:.4f}", trial.objective),
                Field(str(len(trial.seeds)), len(trial.seeds)),
                Field(trial.status, tone="bad" if trial.status == "failed" else ""),
            )
            for trial in trials[:MAX_SEARCH_ROWS]
        )
        objective = f"{board.results.summary.objective} on val"
        shown = f"best {len(rows)} of {len(trials)} points" if len(trials) > len(rows) else ""
        tables.append(
            Table(
                f"{first.task}: {first.weak} > {first.strong}, {first.method}, {first.loss}",
                (*paths, objective, "seeds", "ended"),
                rows,
                shown,
            )
        )
    return tables


def _hyperparameter(trial: TrialResult, path: str) -> Field:
    value = trial.hyperparameters.get(path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Field("" if value is None else str(value))
    return Field(f"{value:.4g}", float(value))


def failures_table(board: Board) -> Table | None:
    """Failed trials with their causes; None if there are none."""
    rows = tuple(
        (Field(trial.block), Field(trial.task), Field(trial.name), Field(trial.cause, tone="bad"))
        for trial in board.failures
    )
    if not rows:
        return None
    return Table("Failed trials", ("block", "task", "trial", "cause"), rows)


CSV_COLUMNS = (
    *("block", "task", "weak", "strong", "method", "loss", "status", "num_searched"),
    *("num_rows", "num_seeds"),
    *(
        f"{name}{end}"
        for name in (
            *("floor", "supervisor", "student", "ceiling", "gain", "gap", "pgr", "pgr_median"),
            *("auroc_floor", "auroc_student", "auroc_ceiling", "pgr_auroc"),
            *("agreement", "agreement_where_right", "agreement_where_wrong"),
        )
        for end in ("", "_low", "_high")
    ),
    *("balanced_accuracy", "log_loss", "brier", "calibration_error"),
    *("misfit_squared", "misfit_divergence", "brier_gain"),
    *(f"{name}_{choice}" for choice in CHOICES for name in ("stopped", "pgr_stopped")),
    *("detectable_gain", "rows_needed"),
    *("hyperparameters", "objective", "cause"),
)


def csv_rows(scores: Sequence[CellScores], board: Board) -> Iterator[dict[str, object]]:
    """Every cell, over all tasks and by task, and every failed trial, with every number."""
    for scored in scores:
        cell, compared = scored.cell, scored.compared
        row: dict[str, object] = {
            "block": cell.block,
            "task": task_words(scored, board),
            "weak": cell.weak,
            "strong": cell.strong,
            "method": cell.method,
            "loss": cell.loss,
            "status": "done",
            "num_searched": cell.num_searched,
            "num_rows": compared.num_rows,
            "num_seeds": compared.num_seeds,
            "detectable_gain": scored.power.detectable,
            "rows_needed": scored.power.num_rows,
            **asdict(scored.student),
        }
        for choice, stop in scored.stopping.items():
            row |= {f"stopped_{choice}": stop.accuracy, f"pgr_stopped_{choice}": stop.pgr}
        auroc, median = scored.auroc, scored.median_pgr
        for name, estimate in (
            ("floor", compared.floor),
            ("supervisor", scored.supervisor),
            ("student", compared.student),
            ("ceiling", compared.ceiling),
            ("gain", compared.gain),
            ("gap", compared.gap),
            ("pgr", compared.pgr),
            ("pgr_median", median.estimate if median else None),
            ("auroc_floor", auroc.floor if auroc else None),
            ("auroc_student", auroc.student if auroc else None),
            ("auroc_ceiling", auroc.ceiling if auroc else None),
            ("pgr_auroc", auroc.pgr if auroc else None),
            ("agreement", scored.agreement),
            ("agreement_where_right", scored.agreement_right),
            ("agreement_where_wrong", scored.agreement_wrong),
        ):
            if estimate is not None:
                row |= {
                    name: estimate.point,
                    f"{name}_low": estimate.low,
                    f"{name}_high": estimate.high,
                }
        if len(cell.trials) == 1:
            trial = cell.trials[0]
            values = trial.hyperparameters.items()
            row["hyperparameters"] = "; ".join(f"{path}={value}" for path, value in values)
            row["objective"] = trial.objective
        yield row
    for trial in board.failures:
        yield {
            "block": trial.block,
            "task": trial.task,
            "weak": trial.weak,
            "strong": trial.strong,
            "method": trial.method,
            "loss": trial.loss,
            "status": trial.status,
            "num_seeds": len(trial.seeds),
            "cause": trial.cause,
        }
