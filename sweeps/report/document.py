"""What the report says, before it is Markdown or HTML.

`compose` turns a sweep's results into a `Document`: headline sentences and cards, tables,
figures, transcripts, notes. Every number is computed here, once; the renderers only write it down.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sweeps.report import (
    analyses,
    ensembles,
    generations,
    oversight,
    oversight_plots,
    plots,
    tables,
)
from sweeps.report.load import Board
from sweeps.report.plots import Figure
from sweeps.report.ranking import ranking
from sweeps.report.scoring import (
    BETTER_LOSS,
    BETTER_SUPERVISOR,
    PLAIN_LOSS,
    PLAIN_METHOD,
    CellScores,
    Contrast,
    arms,
    contrasts,
    effect_of,
    scalings,
    score,
)
from sweeps.report.tables import Table
from sweeps.results import SweepResults, TranscriptExample
from w2s.statistics import Estimate

MAX_NAMED_TASKS = 4
"""Tasks that are named at the top; more are counted."""
NUM_SHOWN = 3
"""Transcripts on the page."""


@dataclass(frozen=True, slots=True)
class Card:
    """One large number."""

    label: str
    """What it is."""
    value: str
    """The number."""
    interval: str
    """Its 95 % interval, or why there is none."""


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    results: SweepResults
    """What it is about."""
    facts: tuple[str, ...]
    """One line each: when, seeds, rows, trials, stages."""
    headline: tuple[str, ...]
    """What came out, in a few sentences."""
    cards: tuple[Card, ...]
    """Numbers of the pair that the headline is about."""
    scores: tuple[Table, ...]
    """The main tables, one per block."""
    ranking: Table | None
    """Methods and losses in order."""
    analyses: tuple[Table, ...]
    """Arms, early stopping, agreement against size."""
    metrics: Table | None
    """Further scores of every cell."""
    by_task: tuple[Table, ...]
    """The same for each task; empty for a sweep of one task."""
    contrasts: tuple[Table, ...]
    """Paired differences, one table per question."""
    searches: tuple[Table, ...]
    """Points of each search."""
    failures: Table | None
    """Failed trials with their causes."""
    figures: tuple[Figure, ...]
    """Drawings."""
    oversight: tuple[Table, ...]
    """What transcripts did to judges; empty where none was read."""
    oversight_figures: tuple[Figure, ...]
    """Drawings of that."""
    transcripts: tuple[TranscriptExample, ...]
    """A few transcripts to read on the page."""
    by_cell: tuple[CellScores, ...]
    """Scores of the cells over all tasks."""
    csv: tuple[dict[str, object], ...]
    """Lines of the CSV file."""


def compose(results: SweepResults) -> Document:
    """Compute everything that the report says."""
    board = Board(results)
    scores = [score(board, cell) for cell in board.cells]
    by_task: list[CellScores] = []
    if len(results.summary.tasks) > 1:
        by_task = [
            score(board, cell.of_task(task.name))
            for task in results.summary.tasks
            for cell in board.cells
            if len(cell.trials) > 1 and any(trial.task == task.name for trial in cell.trials)
        ]
    differences = list(contrasts(board))
    chief = _chief(scores, results)
    effect = effect_of(results)
    judges = oversight.judges(results)
    rated = oversight.rated(judges)
    analysed = (
        ensembles.ensembles_table(board),
        generations.generations_table(board),
        analyses.arms_table(list(arms(board)), board),
        analyses.stopping_table(scores),
        analyses.scaling_table(list(scalings(board))),
    )
    return Document(
        results=results,
        facts=tuple(_facts(results)),
        headline=tuple(_headline(chief, scores, differences)),
        cards=_cards(chief),
        scores=tuple(tables.scores_tables(scores, board, effect)),
        ranking=analyses.ranking_table(ranking(board), effect),
        analyses=tuple(table for table in analysed if table is not None),
        metrics=analyses.metrics_table(scores),
        by_task=tuple(tables.scores_tables(by_task, board)) if by_task else (),
        contrasts=tuple(tables.contrasts_tables(differences, effect)),
        searches=tuple(tables.search_tables(board)),
        failures=tables.failures_table(board),
        figures=tuple(plots.all_figures(board, scores, by_task)),
        oversight=oversight.all_tables(results, judges, rated),
        oversight_figures=tuple(oversight_plots.all_figures(judges, rated)),
        transcripts=_shown(results.transcripts.examples),
        by_cell=tuple(scores),
        csv=tuple(tables.csv_rows([*scores, *by_task], board)),
    )


def _shown(examples: Sequence[TranscriptExample]) -> tuple[TranscriptExample, ...]:
    """Of the first method: one that helped its judge, one that misled it, one that did neither."""
    if not examples:
        return ()
    first = examples[0]
    unit = (first.task, first.weak, first.strong, first.method)
    mine = [each for each in examples if (each.task, each.weak, each.strong, each.method) == unit]
    found = []
    for wanted in ((True, False), (False, True), (False, False), (True, True)):
        found += [
            each
            for each in mine
            if (_right(each.prob_with, each), _right(each.prob_without, each)) == wanted
        ][:1]
    return tuple(found[:NUM_SHOWN])


def _right(probability: float | None, example: TranscriptExample) -> bool:
    """Whether a judge with this probability of `correct` is right."""
    return probability is not None and (probability > 0.5) == (example.label == 1)


def _facts(results: SweepResults) -> list[str]:
    summary = results.summary
    when = datetime.fromtimestamp(summary.finished, UTC)
    minutes, seconds = divmod(round(summary.finished - summary.started), 60)
    statuses = [trial.status for trial in results.trials]
    counted = ", ".join(
        f"{statuses.count(status)} {status}"
        for status in ("done", "stopped", "failed")
        if status in statuses
    )
    totals: dict[str, int] = {}
    for counts in summary.stages.values():
        for state, number in counts.items():
            totals[state] = totals.get(state, 0) + number
    counts = [task.num_rows.get("test", 0) for task in summary.tasks]
    if len(counts) <= MAX_NAMED_TASKS:
        named = ", ".join(task.name for task in summary.tasks)
        rows = " + ".join(f"{count:,}" for count in counts)
    else:
        each = f"{min(counts):,} to {max(counts):,}" if len(set(counts)) > 1 else f"{counts[0]:,}"
        named, rows = str(len(counts)), f"{sum(counts):,} ({each} a task)"
    facts = [
        f"Finished {when:%Y-%m-%d %H:%M} UTC after {minutes} min {seconds:02d} s",
        f"{'Task' if len(summary.tasks) == 1 else 'Tasks'}: {named}; test rows: {rows}",
        f"Seeds: {', '.join(map(str, summary.seeds))}",
        f"Trials: {counted or 'none'}",
    ]
    if totals:
        states = ", ".join(f"{number} {state}" for state, number in totals.items())
        facts.append(f"Stages of this run: {states}")
    return facts


def _chief(scores: Sequence[CellScores], results: SweepResults) -> CellScores | None:
    """The plain student of the widest pair: what the headline is about."""
    order = [rung.name for rung in results.summary.ladder]
    plain = [
        scored
        for scored in scores
        if (scored.cell.method, scored.cell.loss) == (PLAIN_METHOD, PLAIN_LOSS)
        and not scored.cell.num_searched
    ]
    candidates = plain or list(scores)
    if not candidates:
        return None
    return max(candidates, key=lambda s: order.index(s.cell.strong) - order.index(s.cell.weak))


def _headline(
    chief: CellScores | None, scores: Sequence[CellScores], differences: Sequence[Contrast]
) -> list[str]:
    if chief is None:
        return ["No trial finished, so there is nothing to compare."]
    cell, compared = chief.cell, chief.compared
    sentences = [
        f"Supervised by {cell.weak}, {cell.strong} reaches {_accuracy(compared.student)} on test "
        f"({cell.method}, {cell.loss}); {cell.weak} alone has {_accuracy(compared.floor)}, "
        f"{cell.strong} with ground truth {_accuracy(compared.ceiling)}. "
        + (
            f"Performance gap recovered: {tables.pgr_field(compared.pgr).text}."
            if compared.pgr
            else "The gap between ceiling and floor is too small for a ratio."
        )
    ]
    if chief.median_pgr:
        median = chief.median_pgr
        sentences[0] += (
            f" The median over the {median.num_tasks} tasks with a gap is "
            f"{tables.pgr_field(median.estimate).text}."
        )
    pair = [s for s in scores if (s.cell.weak, s.cell.strong) == (cell.weak, cell.strong)]
    with_pgr = [s for s in pair if s.compared.pgr and s is not chief]
    if with_pgr:
        best = max(with_pgr, key=lambda s: s.compared.student.point)
        if best.compared.student.point > compared.student.point:
            sentences.append(
                f"The best student of this pair is that of {best.cell.method} with "
                f"{best.cell.loss}: {_accuracy(best.compared.student)}, PGR "
                f"{tables.pgr_field(best.compared.pgr).text}."
            )
    for topic in (BETTER_SUPERVISOR, BETTER_LOSS):
        asked = [difference for difference in differences if difference.topic == topic]
        if asked:
            top = max(asked, key=lambda difference: difference.estimate.point)
            verdict = "" if top.estimate.excludes_zero else "; the interval includes 0"
            sentences.append(
                f"{topic} At most by {tables.points(top.estimate)} points: {top.first} against "
                f"{top.second} ({top.where}){verdict}."
            )
    return sentences


def _accuracy(estimate: Estimate) -> str:
    return f"{100 * estimate.point:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _cards(chief: CellScores | None) -> tuple[Card, ...]:
    if chief is None:
        return ()
    cell, compared = chief.cell, chief.compared
    cards = [
        Card(label, f"{100 * e.point:.1f} %", f"[{100 * e.low:.1f}, {100 * e.high:.1f}]")
        for label, e in (
            (f"floor: {cell.weak} alone", compared.floor),
            (f"student: {cell.strong} taught by {cell.weak}", compared.student),
            (f"ceiling: {cell.strong}, ground truth", compared.ceiling),
        )
    ]
    pgr = compared.pgr
    if pgr is None:
        return (*cards, Card("PGR", "-", tables.GAP_TOO_SMALL))
    return (*cards, Card("PGR", f"{pgr.point:.2f}", f"[{pgr.low:.2f}, {pgr.high:.2f}]"))
