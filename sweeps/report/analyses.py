"""Tables of the analyses: methods in order, arms, early stopping, agreement by size, more metrics.

Plain values like those of `sweeps.report.tables`; each function returns None where the sweep has
nothing to show.
"""

import math
from collections.abc import Sequence

from sweeps.report.load import Board
from sweeps.report.ranking import Ranked
from sweeps.report.scoring import ArmScores, CellScores, Scaling
from sweeps.report.tables import (
    Field,
    Table,
    difference_field,
    percent,
    pgr_field,
    points,
    power_field,
    power_note,
)
from w2s.stages.checkpoints import CHOICES, Choice
from w2s.statistics import Estimate

RANKING_COLUMNS = (
    *("rank", "block", "method", "loss", "pairs x tasks", "supervisor", "student", "PGR"),
    "median PGR",
    *("gain over naive xent, points", "p", "p (Holm)", "detectable, points"),
)


def ranking_table(lines: Sequence[Ranked], effect: float) -> Table | None:
    """Methods and losses in order; None if there is nothing to put in order."""
    if len(lines) < 2:
        return None
    rows = tuple(
        (
            Field(str(line.rank), line.rank),
            Field(line.block),
            Field(line.method),
            Field(line.loss + (f" (best of {line.num_searched})" if line.num_searched else "")),
            Field(f"{line.num_pairs} x {line.num_units / line.num_pairs:g}", line.num_units),
            percent(line.supervisor),
            percent(line.student),
            pgr_field(line.pgr),
            pgr_field(line.median_pgr.estimate) if line.median_pgr else Field("-", -math.inf),
            Field("reference", 0.0, "faint")
            if line.p_value is None
            else Field(points(line.gain), line.gain.point, _tone(line.gain, line.adjusted)),
            _p_field(line.p_value),
            _p_field(line.adjusted),
            power_field(line.power, effect),
        )
        for line in lines
    )
    return Table(
        "Methods ranked",
        RANKING_COLUMNS,
        rows,
        "Each line on the pairs, tasks and seeds that it shares with the plain student (naive, "
        "xent) of the same recipes. In colour: below 5 % after Holm's correction for the number "
        "of lines. " + power_note([line.power for line in lines if line.power], effect, "gain"),
    )


def _tone(estimate: Estimate, adjusted: float | None) -> str:
    if adjusted is None or adjusted >= 0.05:
        return ""
    return "good" if estimate.point > 0 else "bad"


def _p_field(p_value: float | None) -> Field:
    if p_value is None:
        return Field("-", 2.0, "faint")
    return Field("< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}", p_value)


ARM_COLUMNS = (
    *("weak > strong", "method", "loss", "arm", "test accuracy", "PGR"),
    *("arm - floor, points", "arm - student, points", "rows x seeds"),
)


def arms_table(arms: Sequence[ArmScores], board: Board) -> Table | None:
    """What methods have scored beside their students; None if they have nothing."""
    rows = []
    for arm in arms:
        cell = arm.cell
        num_rows = board.num_rows(cell)
        rows.append(
            (
                Field(f"{cell.weak} > {cell.strong}"),
                Field(cell.method),
                Field(cell.loss),
                Field(arm.name),
                percent(arm.accuracy),
                pgr_field(arm.pgr),
                difference_field(arm.over_floor),
                difference_field(arm.over_student),
                Field(f"{num_rows:,} x {len(cell.seeds)}", num_rows),
            )
        )
    return Table("Arms", ARM_COLUMNS, tuple(rows)) if rows else None


STOPPING_WORDS: dict[Choice, str] = {
    "last": "last",
    "best_val": "best on weak validation",
    "oracle": "oracle",
}


def stopping_table(scores: Sequence[CellScores]) -> Table | None:
    """One run under three rules of stopping; None where no checkpoints were kept."""
    rows = []
    seen: set[tuple[tuple[str, ...], ...]] = set()
    for scored in scores:
        cell = scored.cell
        students = tuple(tuple(keys.student for keys in seeds) for seeds in cell.by_task)
        # A block may repeat another's students to compare with.
        if not scored.stopping or students in seen:
            continue
        seen.add(students)
        fields = [Field(f"{cell.weak} > {cell.strong}"), Field(cell.method), Field(cell.loss)]
        stops = [scored.stopping.get(choice) for choice in CHOICES]
        fields += [
            Field("-", -1.0, "faint")
            if stop is None
            else Field(f"{100 * stop.accuracy:.1f}", stop.accuracy)
            for stop in stops
        ]
        fields += [
            Field("-", -math.inf, "faint")
            if stop is None or stop.pgr is None
            else Field(f"{stop.pgr:.2f}", stop.pgr)
            for stop in stops
        ]
        rows.append(tuple(fields))
    if not rows:
        return None
    return Table(
        "Early stopping",
        (
            *("weak > strong", "method", "loss"),
            *(f"accuracy, {STOPPING_WORDS[choice]}" for choice in CHOICES),
            *(f"PGR, {STOPPING_WORDS[choice]}" for choice in CHOICES),
        ),
        tuple(rows),
        "Of one run: its last checkpoint, the best on weak labels of val, and the best on test by "
        "ground truth. The oracle is a diagnostic: no result rests on it. PGR: the median over "
        "tasks.",
    )


SCALING_COLUMNS = (
    *("block", "weak", "students", "method", "loss"),
    *("agreement, points per decade", "where the supervisor is wrong, points per decade"),
)


def scaling_table(lines: Sequence[Scaling]) -> Table | None:
    """Slopes of agreement against size; None if no supervisor has students of several sizes."""
    rows = tuple(
        (
            Field(line.block),
            Field(line.weak),
            Field(", ".join(line.strong)),
            Field(line.method),
            Field(line.loss),
            Field(points(line.agreement), line.agreement.point),
            _wrong_field(line.where_wrong),
        )
        for line in lines
    )
    if not rows:
        return None
    return Table(
        "Agreement against size",
        SCALING_COLUMNS,
        rows,
        "Change of agreement with the supervisor for ten times the parameters of the student: "
        "below 0, larger students imitate it less (inverse scaling).",
    )


def _wrong_field(estimate: Estimate | None) -> Field:
    if estimate is None:
        return Field("-", math.inf, "faint")
    # That larger students repeat fewer errors is the good end.
    tone = "" if not estimate.excludes_zero else "good" if estimate.point < 0 else "bad"
    return Field(points(estimate), estimate.point, tone)


METRIC_COLUMNS = (
    *("block", "weak > strong", "method", "loss", "AUROC floor", "student", "ceiling"),
    *("PGR on AUROC", "balanced accuracy", "ECE", "Brier", "log loss"),
    *("misfit, squared", "misfit, KL", "Brier gain over supervisor"),
)


def metrics_table(scores: Sequence[CellScores]) -> Table | None:
    """Further scores of every cell; None without cells."""
    rows = []
    for scored in scores:
        cell, auroc, student = scored.cell, scored.auroc, scored.student
        rows.append(
            (
                Field(cell.block),
                Field(f"{cell.weak} > {cell.strong}"),
                Field(cell.method),
                Field(cell.loss),
                *(
                    [Field("-", -1.0, "faint")] * 4
                    if auroc is None
                    else [
                        *map(percent, (auroc.floor, auroc.student, auroc.ceiling)),
                        pgr_field(auroc.pgr),
                    ]
                ),
                Field(f"{100 * student.balanced_accuracy:.1f}", student.balanced_accuracy),
                *(
                    Field(f"{value:.3f}", value)
                    for value in (
                        student.calibration_error,
                        student.brier,
                        student.log_loss,
                        student.misfit_squared,
                        student.misfit_divergence,
                        student.brier_gain,
                    )
                ),
            )
        )
    if not rows:
        return None
    return Table(
        "More metrics",
        METRIC_COLUMNS,
        tuple(rows),
        "AUROC and balanced accuracy in percent. Balanced accuracy, calibration error (ECE, ten "
        "bins), Brier score and log loss (nats) are the student's. Misfit is its distance to the "
        "supervisor's probabilities: mean squared distance, on the scale of the Brier score, and "
        "KL(supervisor || student) in nats.",
    )
