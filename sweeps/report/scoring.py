"""The numbers of the report: scores of each cell, and the paired differences that answer questions.

Intervals are 95 % percentiles of a paired bootstrap over test rows (whole groups of them) and seeds
(`w2s.statistics`). A score over several tasks is the plain mean of the tasks' scores.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import JsonValue

from sweeps.report.load import Board, Cell
from sweeps.results import SweepResults
from w2s import metrics, statistics
from w2s.stages.checkpoints import Choice
from w2s.statistics import Comparison, Estimate, Power, Resampled

PLAIN_METHOD = "naive"
PLAIN_LOSS = "xent"
SHUFFLED_LABELS = "shuffled_labels"
BETTER_SUPERVISOR = "Does assistance make a better supervisor?"
BETTER_LOSS = "Does the loss make a better student?"
DEFAULT_EFFECT = 0.01
RECIPES = ("train", "supervisor", "student", "ceiling")
"""Tables of a block that change how its models are trained."""


@dataclass(frozen=True, slots=True)
class MedianPgr:
    """Median over the tasks, as Burns et al. 2023 give it."""

    estimate: Estimate
    """The median."""
    num_tasks: int
    """Tasks whose gap is not too small: those that count."""


@dataclass(frozen=True, slots=True)
class StudentMetrics:
    """Further test scores of a student, means over tasks and seeds."""

    balanced_accuracy: float
    log_loss: float
    brier: float
    calibration_error: float
    """Expected calibration error, ten bins."""
    misfit_squared: float
    """Mean squared distance to its supervisor's probabilities, on the scale of `brier`."""
    misfit_divergence: float
    """Mean KL(supervisor || student), in nats."""
    brier_gain: float
    """Brier score of its supervisor minus its own."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """One run stopped by one of three rules."""

    accuracy: float
    """Test accuracy, mean over tasks and seeds."""
    pgr: float | None
    """PGR of that accuracy, the median over tasks; None: the gap is too small on all of them."""


@dataclass(frozen=True, slots=True)
class CellScores:
    """Test scores of one cell."""

    cell: Cell
    """What was scored."""
    compared: Comparison
    """Accuracy of floor, student and ceiling, gap and PGR."""
    auroc: Comparison | None
    """The same by AUROC; None if a task has other than two classes."""
    median_pgr: MedianPgr | None
    """None if there is one task, or no task with a gap."""
    supervisor: Estimate
    """Accuracy of the supervisor as the method assists it; the floor where nothing does."""
    agreement: Estimate
    """Share of rows on which student and supervisor predict the same class."""
    agreement_right: Estimate | None
    """The same where the supervisor is right; None if it never is."""
    agreement_wrong: Estimate | None
    """The same where the supervisor is wrong: its errors that the student repeats."""
    student: StudentMetrics
    """Further scores of the student."""
    power: Power
    """What can be seen of its gain over the floor."""
    stopping: dict[Choice, Stopping]
    """Its run stopped by each rule; empty if no checkpoints were kept."""


@dataclass(frozen=True, slots=True)
class ArmScores:
    """One arm of a method: predictions that it has scored beside its student's."""

    cell: Cell
    """Where it belongs."""
    name: str
    """Name of the arm."""
    accuracy: Estimate
    """Its test accuracy."""
    pgr: Estimate | None
    """PGR with the arm in the place of the student; None: the gap is too small."""
    over_student: Estimate
    """Its accuracy minus the student's."""
    over_floor: Estimate
    """Its accuracy minus the floor's."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How agreement with one weak supervisor changes with the size of the student."""

    block: str
    weak: str
    method: str
    loss: str
    strong: tuple[str, ...]
    """Rungs of its students, smallest first."""
    agreement: Estimate
    """Slope of agreement against log10 of the size: change per decade."""
    where_wrong: Estimate | None
    """The same where the supervisor is wrong; None if it never is."""


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
    power: Power
    """What can be seen of such a difference."""
    num_rows: int
    """Test rows."""
    num_seeds: int
    """Seeds."""


def effect_of(results: SweepResults) -> float:
    """The difference of accuracy that the sweep wants to be able to see."""
    effect = results.summary.spec.get("effect", DEFAULT_EFFECT)
    return float(effect) if isinstance(effect, int | float) else DEFAULT_EFFECT


def score(board: Board, cell: Cell) -> CellScores:
    """Score a cell."""
    floors, students = board.accuracy(cell, "floor"), board.accuracy(cell, "student")
    ceilings = board.accuracy(cell, "ceiling")
    num_rows, num_seeds = board.num_rows(cell), len(cell.seeds)
    floor, student = statistics.mean_over(floors), statistics.mean_over(students)
    compared = statistics.comparison(
        floor, student, statistics.mean_over(ceilings), num_rows, num_seeds
    )
    supervisor = compared.floor
    if cell.assisted:
        supervisor = statistics.mean_over(board.accuracy(cell, "supervisor")).estimate
    return CellScores(
        cell=cell,
        compared=compared,
        auroc=_auroc(board, cell),
        median_pgr=median_pgr(floors, students, ceilings),
        supervisor=supervisor,
        agreement=statistics.mean_over(board.agreement(cell)).estimate,
        agreement_right=_where_defined(board.agreement_where(cell, "right")),
        agreement_wrong=_where_defined(board.agreement_where(cell, "wrong")),
        student=_student_metrics(board, cell),
        power=(student - floor).power(num_rows, effect_of(board.results)),
        stopping=_stopping(board, cell, floors, ceilings),
    )


def median_pgr(
    floors: Sequence[Resampled], students: Sequence[Resampled], ceilings: Sequence[Resampled]
) -> MedianPgr | None:
    """Median over tasks of the PGR; None for one task, or if no task has a gap."""
    ratios = [
        statistics.gap_recovered(student - floor, ceiling - floor)
        for floor, student, ceiling in zip(floors, students, ceilings, strict=True)
    ]
    found = [ratio for ratio in ratios if ratio is not None]
    if len(floors) < 2 or not found:
        return None
    return MedianPgr(statistics.median_over(found).estimate, len(found))


def _auroc(board: Board, cell: Cell) -> Comparison | None:
    by_role = [board.role(cell, role, "auroc") for role in ("floor", "student", "ceiling")]
    floor, student, ceiling = (statistics.mean_over(r) if r else None for r in by_role)
    if floor is None or student is None or ceiling is None:
        return None
    return statistics.comparison(floor, student, ceiling, board.num_rows(cell), len(cell.seeds))


def _where_defined(numbers: Sequence[Resampled]) -> Estimate | None:
    """Mean over the tasks that have such a number."""
    defined = [number for number in numbers if not math.isnan(number.point)]
    return statistics.mean_over(defined).estimate if defined else None


def _student_metrics(board: Board, cell: Cell) -> StudentMetrics:
    by_task = []
    for trial, seeds in zip(cell.trials, cell.by_task, strict=True):
        by_seed = []
        for keys in seeds:
            student = board.rows(trial, keys, "student")
            supervisor = board.rows(trial, keys, "supervisor")
            probabilities_NC, labels_N = student.probabilities, student.label
            logs_NC = np.log(np.maximum(probabilities_NC, metrics.SMALLEST_PROBABILITY))
            brier = metrics.brier(probabilities_NC, labels_N)
            misfit = metrics.misfit(probabilities_NC, supervisor.probabilities)
            by_seed.append(
                (
                    metrics.balanced_accuracy(probabilities_NC, labels_N),
                    metrics.log_loss(logs_NC, labels_N),
                    brier,
                    metrics.expected_calibration_error(probabilities_NC, labels_N),
                    misfit.squared,
                    misfit.divergence,
                    metrics.brier(supervisor.probabilities, labels_N) - brier,
                )
            )
        by_task.append(np.mean(by_seed, axis=0))
    return StudentMetrics(*np.mean(by_task, axis=0).tolist())


def _stopping(
    board: Board, cell: Cell, floors: Sequence[Resampled], ceilings: Sequence[Resampled]
) -> dict[Choice, Stopping]:
    found: dict[Choice, Stopping] = {}
    for choice, accuracy_of in board.stopped.items():
        keys = [[keys.student for keys in seeds] for seeds in cell.by_task]
        if not all(key in accuracy_of for seeds in keys for key in seeds):
            continue
        accuracies = [float(np.mean([accuracy_of[key] for key in seeds])) for seeds in keys]
        ratios = [
            (accuracy - floor.point) / (ceiling.point - floor.point)
            for accuracy, floor, ceiling in zip(accuracies, floors, ceilings, strict=True)
            if (ceiling - floor).estimate.low > 0
        ]
        found[choice] = Stopping(
            float(np.mean(accuracies)), float(np.median(ratios)) if ratios else None
        )
    return found


def arms(board: Board) -> Iterator[ArmScores]:
    """Every arm of every cell."""
    for cell in board.cells:
        floor, student, ceiling = (
            statistics.mean_over(board.accuracy(cell, role))
            for role in ("floor", "student", "ceiling")
        )
        for name in cell.arms:
            arm = statistics.mean_over(board.arm(cell, name))
            pgr = statistics.gap_recovered(arm - floor, ceiling - floor)
            yield ArmScores(
                cell=cell,
                name=name,
                accuracy=arm.estimate,
                pgr=pgr.estimate if pgr is not None else None,
                over_student=(arm - student).estimate,
                over_floor=(arm - floor).estimate,
            )


def scalings(board: Board) -> Iterator[Scaling]:
    """Slopes of agreement against size, for every supervisor with students of several sizes."""
    size = {rung.name: rung.num_non_embedding for rung in board.results.summary.ladder}
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in board.cells:
        if not cell.num_searched:
            group = (cell.block, cell.weak, cell.method, cell.loss)
            groups.setdefault(group, []).append(cell)
    for (block, weak, method, loss), cells in groups.items():
        cells.sort(key=lambda cell: size[cell.strong])
        if len({size[cell.strong] for cell in cells}) < 2 or len(_common_tasks(cells)) == 0:
            continue
        cells = [_on_tasks(cell, _common_tasks(cells)) for cell in cells]
        places = [math.log10(size[cell.strong]) for cell in cells]
        agreement = [statistics.mean_over(board.agreement(cell)) for cell in cells]
        wrong = [statistics.mean_over(board.agreement_where(cell, "wrong")) for cell in cells]
        defined = not any(math.isnan(number.point) for number in wrong)
        yield Scaling(
            block=block,
            weak=weak,
            method=method,
            loss=loss,
            strong=tuple(cell.strong for cell in cells),
            agreement=statistics.slope(places, agreement).estimate,
            where_wrong=statistics.slope(places, wrong).estimate if defined else None,
        )


def _common_tasks(cells: Sequence[Cell]) -> set[str]:
    return set.intersection(*({trial.task for trial in cell.trials} for cell in cells))


def _on_tasks(cell: Cell, tasks: set[str]) -> Cell:
    return replace(cell, trials=tuple(trial for trial in cell.trials if trial.task in tasks))


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
                _where(board, cell),
                (f"supervisor, {cell.method}", board.accuracy(cell, "supervisor")),
                ("alone", board.accuracy(cell, "floor")),
                cell,
            )


def _debaters(board: Board) -> Iterator[Contrast]:
    """The plain debate against its variants, and against other things that a supervisor reads."""
    for cell in board.cells:
        if cell.method != "debate":
            continue
        for other in board.cells:
            if other.method.startswith("debate("):
                topic = "Is it what the strong model says in the debate?"
            elif other.reads and other.method != cell.method:
                topic = "Does a debate help its reader more than something else?"
            else:
                continue
            if _same(cell, other, loss=True) and (shared := on_shared(cell, other)):
                yield _contrast(
                    board,
                    topic,
                    _where(board, cell),
                    ("supervisor, debate", board.accuracy(shared[0], "supervisor")),
                    (other.method, board.accuracy(shared[1], "supervisor")),
                    shared[0],
                )


def _ensembles(board: Board) -> Iterator[Contrast]:
    for cell in board.cells:
        if cell.has_members:
            yield _contrast(
                board,
                "Is an ensemble better than its members?",
                _where(board, cell),
                (f"supervisor, {cell.method}", board.accuracy(cell, "supervisor")),
                ("mean of its members", board.members(cell)),
                cell,
            )


def _students(board: Board) -> Iterator[Contrast]:
    for cell in board.cells:
        if cell.method in (PLAIN_METHOD, SHUFFLED_LABELS) or cell.weak == cell.strong:
            continue
        plain = find(board, cell, method=PLAIN_METHOD, loss=cell.loss)
        if plain and (shared := on_shared(cell, plain)):
            yield _contrast(
                board,
                "Does assistance make a better student?",
                _where(board, cell, cell.loss),
                (f"student, {cell.method}", board.accuracy(shared[0], "student")),
                (PLAIN_METHOD, board.accuracy(shared[1], "student")),
                shared[0],
            )


def _losses(board: Board) -> Iterator[Contrast]:
    for cell in board.cells:
        if cell.loss == PLAIN_LOSS:
            continue
        plain = find(board, cell, method=cell.method, loss=PLAIN_LOSS)
        if plain and (shared := on_shared(cell, plain)):
            searched = f", best of {cell.num_searched} on val" if cell.num_searched else ""
            yield _contrast(
                board,
                BETTER_LOSS,
                _where(board, cell, cell.method),
                (f"student, {cell.loss}{searched}", board.accuracy(shared[0], "student")),
                (PLAIN_LOSS, board.accuracy(shared[1], "student")),
                shared[0],
            )


def _controls(board: Board) -> Iterator[Contrast]:
    classes = {task.name: task.num_classes for task in board.results.summary.tasks}
    for cell in board.cells:
        student = board.accuracy(cell, "student")
        if cell.method == SHUFFLED_LABELS:
            chances = [statistics.constant(1 / classes[trial.task]) for trial in cell.trials]
            yield _contrast(
                board,
                "Controls",
                _where(board, cell, cell.loss),
                ("student of shuffled labels", student),
                ("chance", chances),
                cell,
            )
        elif cell.weak == cell.strong:
            yield _contrast(
                board,
                "Controls",
                _where(board, cell, cell.method, cell.loss),
                ("student of an equal model", student),
                ("its supervisor", board.accuracy(cell, "supervisor")),
                cell,
            )


def _where(board: Board, cell: Cell, *same: str) -> str:
    """Pair, what else is the same on both sides, and the block if it has recipes of its own."""
    block = (cell.block,) if recipes(board, cell.block) else ()
    return ", ".join((f"{cell.weak}>{cell.strong}", *same, *block))


def _same(first: Cell, second: Cell, *, loss: bool) -> bool:
    pair = (first.weak, first.strong) == (second.weak, second.strong)
    return pair and (not loss or first.loss == second.loss)


def find(board: Board, cell: Cell, *, method: str, loss: str) -> Cell | None:
    """The cell of the same pair with this method and loss, trained by the same recipes.

    Of the same block if there is one, rather of the grid than of a search.
    """
    found = [
        other
        for other in board.cells
        if _same(cell, other, loss=False)
        and (other.method, other.loss) == (method, loss)
        and recipes(board, other.block) == recipes(board, cell.block)
    ]
    found.sort(key=lambda other: (other.block != cell.block, other.num_searched > 0))
    return found[0] if found else None


def recipes(board: Board, block: str) -> dict[str, JsonValue]:
    """What a block changes about how its models are trained."""
    blocks = board.results.summary.spec.get("blocks", [])
    assert isinstance(blocks, list)
    for table in blocks:
        if isinstance(table, dict) and table.get("name") == block:
            return {name: table[name] for name in RECIPES if table.get(name)}
    return {}


def on_shared(first: Cell, second: Cell) -> tuple[Cell, Cell] | None:
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
        return replace(cell, trials=trials)

    return cut(first), cut(second)


def _contrast(
    board: Board,
    topic: str,
    where: str,
    first: tuple[str, Sequence[Resampled]],
    second: tuple[str, Sequence[Resampled]],
    cell: Cell,
) -> Contrast:
    difference = statistics.mean_over(first[1]) - statistics.mean_over(second[1])
    num_rows = board.num_rows(cell)
    return Contrast(
        topic=topic,
        where=where,
        first=first[0],
        second=second[0],
        estimate=difference.estimate,
        power=difference.power(num_rows, effect_of(board.results)),
        num_rows=num_rows,
        num_seeds=len(cell.seeds),
    )
