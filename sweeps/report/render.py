"""A `Document` as Markdown, as one self-contained HTML file, and as CSV."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources

from sweeps.report.document import MAX_NAMED_TASKS, Document
from sweeps.report.plots import Figure
from sweeps.report.tables import CSV_COLUMNS, Field, Table
from sweeps.results import ROLES, Speech, TranscriptExample

INTERVALS = (
    "Accuracies are in percent of the test rows, means over seeds. Brackets: 95 % intervals from a "
    "paired bootstrap over rows (whole groups of them) and seeds. PGR = (student - floor) / "
    "(ceiling - floor), where the floor is the weak model alone; it is not shown where the "
    "interval of ceiling - floor reaches 0. Agreement: share of rows on which the student says what"
    " its supervisor says, of all rows (of those on which the supervisor is right / wrong). "
    "A score over several tasks is the plain mean of the tasks' scores, and its PGR that of the "
    "means; beside it stands the median over tasks of their PGRs."
)
RANKED = (
    "P-values are two-sided, of the paired difference over its bootstrap standard error. "
    "Detectable: the smallest difference that such a comparison finds with 80 % power at 5 %."
)
DIFFERENCES = (
    "Both sides are scored on the same rows and seeds. A difference in colour has an interval that "
    "excludes 0. Detectable: the smallest difference that such a comparison finds with 80 % power "
    "at 5 %."
)
OVERSIGHT = (
    "What transcripts did to the supervisors that read them, on test rows. Brackets: 95 % "
    "intervals from a paired bootstrap over rows (whole groups of them) and replicates."
)
SEARCHES = "Chosen on val alone; test rows play no part in it."
FOLD_ROWS = 24
"""Lines of a table from which on it is folded, where it is a matter of detail."""
BAR_WIDTH, BAR_HEIGHT = 110, 14
"""Pixels."""


def csv_text(document: Document) -> str:
    """`results.csv`: a line per cell, over all tasks and by task, and per failed trial."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(document.csv)
    return file.getvalue()


# Markdown.


def markdown_text(document: Document, figure_folder: str) -> str:
    """The report as Markdown; figures are linked as files of `figure_folder`."""
    return "\n".join(_markdown(document, figure_folder)) + "\n"


def _markdown(document: Document, figure_folder: str) -> Iterator[str]:
    summary = document.results.summary
    yield f"# {summary.name}\n"
    if summary.description:
        yield f"{summary.description}\n"
    yield from (f"- {fact}" for fact in document.facts)
    yield ""
    yield from (f"**{sentence}**\n" for sentence in document.headline)
    yield f"## Results\n\n{INTERVALS}\n"
    for table in document.scores:
        yield from _markdown_table(table)
    if document.failures:
        yield from _markdown_table(document.failures)
    if document.ranking:
        yield f"## Ranking\n\n{RANKED}\n"
        yield from _markdown_table(document.ranking)
    if document.analyses:
        yield "## Analyses\n"
        for table in document.analyses:
            yield from _markdown_table(table)
    if document.contrasts:
        yield f"## Differences\n\n{DIFFERENCES}\n"
        for table in document.contrasts:
            yield from _markdown_table(table)
    if document.figures:
        yield "## Figures\n"
    for figure in document.figures:
        yield f"![{figure.title}]({figure_folder}/{figure.name}.svg)\n\n{figure.caption}\n"
    if document.searches:
        yield f"## Searches\n\n{SEARCHES}\n"
        for table in document.searches:
            yield from _markdown_table(table)
    if document.oversight:
        yield f"## Oversight\n\n{OVERSIGHT}\n"
        for table in document.oversight:
            yield from _markdown_table(table)
    for figure in document.oversight_figures:
        yield f"![{figure.title}]({figure_folder}/{figure.name}.svg)\n\n{figure.caption}\n"
    if document.transcripts:
        yield "## Transcripts\n"
    for transcript in document.transcripts:
        yield from _markdown_transcript(transcript)
    if document.metrics:
        yield "## Metrics\n"
        yield from _markdown_table(document.metrics)
    if document.by_task:
        yield "## Results by task\n"
        for table in document.by_task:
            yield from _markdown_table(table)
    yield "## Data\n"
    for task in summary.tasks:
        counts = ", ".join(f"{split} {number:,}" for split, number in task.num_rows.items())
        yield f"- {task.name}: {counts} rows"
        yield from (f"  - {note}" for note in task.notes)
    yield f"\n## How to reproduce\n\n    {summary.command}\n"
    versions = ", ".join(f"{name} {version}" for name, version in summary.environment.items())
    yield f"Sweep {summary.sweep_key}, run with {versions}.\n"
    yield f"```json\n{json.dumps(summary.spec, indent=1)}\n```"


def _markdown_table(table: Table) -> Iterator[str]:
    # A column that only draws has nothing to say in Markdown.
    drawn = {i for row in table.rows for i, field in enumerate(row) if field.bar}
    kept = [i for i in range(len(table.columns)) if i not in drawn]
    yield f"### {table.title}\n"
    if table.note:
        yield f"{table.note}\n"
    yield "| " + " | ".join(table.columns[i] for i in kept) + " |"
    yield "|" + " --- |" * len(kept)
    for row in table.rows:
        yield "| " + " | ".join(row[i].text.replace("|", "\\|") for i in kept) + " |"
    yield ""


def _markdown_transcript(example: TranscriptExample) -> Iterator[str]:
    yield (
        f"> **{' '.join(example.question.split())}** (truth: {example.truth}; "
        f"{example.task}, {example.method})\n>"
    )
    for turn in example.turns:
        yield f"> - {_speaker(turn)}: {' '.join(turn.text.split())}"
    if example.text:
        yield f"> {' '.join(example.text.split())}"
    yield ">"
    for judge, probability in _verdicts(example):
        yield f"> {judge}: {_verdict_words(probability)}  "
    yield ""


def _speaker(turn: Speech) -> str:
    return f"{turn.side}, for {turn.position}" if turn.position else f"{turn.side}"


def _verdicts(example: TranscriptExample) -> Iterator[tuple[str, float]]:
    """Who judged, and the probability it gave to the truth."""
    for words, value in (("alone", example.prob_without), ("with this", example.prob_with)):
        if value is not None:
            truth = value if example.label == 1 else 1 - value
            yield f"{example.weak} {words}, seed {example.seed}", truth


def _verdict_words(probability: float) -> str:
    outcome = "right" if probability > 0.5 else "wrong"
    return f"{outcome}, {100 * probability:.0f} % on the truth"


# HTML.


def html_text(document: Document, transcripts_file: str) -> str:
    """The report as one HTML file that needs nothing else; links to the page of transcripts."""
    return "\n".join(_html(document, transcripts_file)) + "\n"


def _html(document: Document, transcripts_file: str) -> Iterator[str]:
    summary = document.results.summary
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(summary.name)}: weak-to-strong report</title>"
    yield f"<style>{_asset('style.css')}</style></head><body><main>"
    yield f"<h1>{escape(summary.name)}</h1>"
    if summary.description:
        yield f"<p>{escape(summary.description)}</p>"
    yield f'<p class="facts">{"<br>".join(escape(fact) for fact in document.facts)}</p>'
    yield '<div class="cards">'
    for card in document.cards:
        yield (
            f'<div class="card"><div class="label">{escape(card.label)}</div>'
            f'<div class="value">{escape(card.value)}</div>'
            f'<div class="interval">{escape(card.interval)}</div></div>'
        )
    yield "</div>"
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in document.headline)
    yield f'<div class="headline">{sentences}</div>'

    yield f'<h2>Results</h2><p class="note">{escape(INTERVALS)}</p>{_legend()}'
    yield from map(_html_table, document.scores)
    if document.failures:
        yield from _folded(
            "Failed trials", [document.failures], folded=len(document.failures.rows) > FOLD_ROWS
        )
    if document.ranking:
        yield f'<h2>Ranking</h2><p class="note">{escape(RANKED)}</p>'
        yield _html_table(document.ranking)
    if document.analyses:
        yield "<h2>Analyses</h2>"
        for table in document.analyses:
            yield from _folded(table.title, [table], folded=len(table.rows) > FOLD_ROWS)
    if document.contrasts:
        yield f'<h2>Differences</h2><p class="note">{escape(DIFFERENCES)}</p>'
        for table in document.contrasts:
            yield from _folded(table.title, [table], folded=len(table.rows) > FOLD_ROWS)
    if document.figures:
        yield "<h2>Figures</h2>"
    for figure in document.figures:
        yield from _html_figure(figure)
    if document.searches:
        yield f'<h2>Searches</h2><p class="note">{escape(SEARCHES)}</p>'
        yield from _folded("Searches", document.searches, folded=len(document.searches) > 4)
    if document.oversight:
        yield f'<h2>Oversight</h2><p class="note">{escape(OVERSIGHT)}</p>'
        for table in document.oversight:
            yield from _folded(table.title, [table], folded=len(table.rows) > FOLD_ROWS)
        for figure in document.oversight_figures:
            yield from _html_figure(figure)
    if document.transcripts:
        counts = document.results.transcripts.counts
        shown = sum(count.num_shown for count in counts)
        made = sum(count.num_made for count in counts)
        yield (
            f'<h2>Transcripts</h2><p><a href="{transcripts_file}">{shown:,} of {made:,} '
            "transcripts</a> can be looked through on a page of their own.</p>"
        )
        yield from map(_html_transcript, document.transcripts)
    if document.metrics:
        yield "<h2>Metrics</h2>"
        yield from _folded("More metrics", [document.metrics], folded=True)
    if document.by_task:
        yield "<h2>Results by task</h2>"
        for table in document.by_task:
            yield from _folded(table.title, [table], folded=True)
    yield from _html_back_matter(document)
    yield f"</main><script>{_asset('sort.js')}</script></body></html>"


def _folded(title: str, tables: Sequence[Table], *, folded: bool) -> Iterator[str]:
    """Tables, behind their title and the number of their lines if they are to be folded."""
    if not folded:
        yield from map(_html_table, tables)
        return
    lines = sum(len(table.rows) for table in tables)
    yield f"<details><summary>{escape(title)}: {lines} lines</summary>"
    yield from map(_html_table, tables)
    yield "</details>"


def _html_figure(figure: Figure) -> Iterator[str]:
    drawn = (
        f"<figure>{figure.svg}<figcaption><h3>{escape(figure.title)}</h3>"
        f"{escape(figure.caption)}</figcaption></figure>"
    )
    if figure.folded:
        drawn = f"<details><summary>{escape(figure.title)}</summary>{drawn}</details>"
    yield drawn


def _html_back_matter(document: Document) -> Iterator[str]:
    summary = document.results.summary
    many = len(summary.tasks) > MAX_NAMED_TASKS
    yield "<h2>Data</h2>"
    if many:
        yield f"<details><summary>{len(summary.tasks)} tasks</summary>"
    yield "<ul>"
    for task in summary.tasks:
        counts = ", ".join(f"{split} {number:,}" for split, number in task.num_rows.items())
        notes = "".join(f"<li>{escape(note)}</li>" for note in task.notes)
        listed = f"<ul>{notes}</ul>" if notes else ""
        yield f"<li>{escape(task.name)}: {escape(counts)} rows{listed}</li>"
    yield "</ul></details>" if many else "</ul>"
    yield "<h2>Models</h2>"
    yield _html_table(
        Table(
            "",
            ("rung", "parameters", "without embeddings"),
            tuple(
                (
                    Field(rung.name),
                    Field(f"{rung.num_parameters:,}", rung.num_parameters),
                    Field(f"{rung.num_non_embedding:,}", rung.num_non_embedding),
                )
                for rung in summary.ladder
            ),
        )
    )
    yield f"<h2>How to reproduce</h2><pre>{escape(summary.command)}</pre>"
    versions = ", ".join(f"{name} {version}" for name, version in summary.environment.items())
    began = datetime.fromtimestamp(summary.started, UTC)
    yield (
        f'<p class="note">Sweep {escape(summary.sweep_key)}, begun {began:%Y-%m-%d %H:%M} UTC, '
        f"run with {escape(versions)}.</p>"
    )
    spec = escape(json.dumps(summary.spec, indent=1))
    yield f"<details><summary>The resolved sweep</summary><pre>{spec}</pre></details>"


def _asset(name: str) -> str:
    return resources.files("sweeps.report").joinpath(name).read_text(encoding="utf-8")


def _legend() -> str:
    marks = "".join(
        f'<span><i style="background:var(--{role})"></i>{role}</span>' for role in ROLES
    )
    return f'<p class="note legend">{marks}</p>'


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    bars = [value for row in table.rows for field in row for _, value in field.bar]
    scale = (min(bars), max(bars)) if bars else (0.0, 1.0)
    body = "".join(
        f"<tr>{''.join(_html_field(field, scale) for field in row)}</tr>" for row in table.rows
    )
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'{title}{note}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _html_field(field: Field, scale: tuple[float, float]) -> str:
    if field.bar:
        return f"<td>{_bar(field.bar, scale)}</td>"
    classes = [field.tone] if field.tone else []
    if len(field.text) > 60:
        classes.append("long")
    styled = f' class="{" ".join(classes)}"' if classes else ""
    finite = field.sort is not None and abs(field.sort) != float("inf")
    number = f"{field.sort:.12g}" if finite else "-1e9"
    sortable = "" if field.sort is None else f' data-sort="{number}"'
    return f"<td{styled}{sortable}>{escape(field.text)}</td>"


def _bar(marks: tuple[tuple[str, float], ...], scale: tuple[float, float]) -> str:
    """Accuracies as coloured marks on the table's scale."""
    low, high = scale
    span = (high - low) or 1.0
    middle = BAR_HEIGHT / 2
    circles = "".join(
        f'<circle cx="{6 + (BAR_WIDTH - 12) * (value - low) / span:.1f}" cy="{middle}" r="4" '
        f'fill="var(--{role})"/>'
        for role, value in marks
    )
    words = ", ".join(f"{role} {100 * value:.1f}" for role, value in marks)
    return (
        f'<svg width="{BAR_WIDTH}" height="{BAR_HEIGHT}" role="img" aria-label="{words}">'
        f'<line x1="6" x2="{BAR_WIDTH - 6}" y1="{middle}" y2="{middle}" stroke="#e3e6ea"/>'
        f"{circles}</svg>"
    )


def _html_transcript(example: TranscriptExample) -> str:
    turns = "".join(
        f'<div class="turn"><div class="who">{escape(_speaker(turn))}'
        f'</div><div class="said">{escape(turn.text)}</div></div>'
        for turn in example.turns
    )
    if example.text:
        turns += f'<div class="said">{escape(example.text)}</div>'
    verdicts = "".join(
        f"<span>{escape(judge)}: "
        f'<b class="{"good" if probability > 0.5 else "bad"}">'
        f"{_verdict_words(probability)}</b></span>"
        for judge, probability in _verdicts(example)
    )
    return (
        f'<div class="debate"><div class="question">{escape(example.question)}</div>'
        f'<p class="note">Truth: {example.truth}. {escape(example.task)}, '
        f"{escape(example.method)}, row {escape(example.row_id)}.</p>{turns}"
        f'<div class="verdicts">{verdicts}</div></div>'
    )
