"""The report of a sweep: tables, figures and transcripts, from what the sweep left in MLflow.

`build` fetches the results of a sweep by name, `of_results` takes them from memory; both give a
`Report`, whose `write` leaves `report.html` (one self-contained file), `report.md` with its
figures, `results.csv` and, where transcripts were read, `transcripts.html` (another one). No store,
torch or Ray is needed.

    load      results to cells: a pair, method and loss, with test rows as arrays
    scoring   cells to scores, differences and their intervals
    oversight judges with and without transcripts
    tables, plots, document, render      scores to tables, figures, and pages
    browser   transcripts to a page in which they are looked through
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.results import SweepResults

if TYPE_CHECKING:
    from sweeps.report.scoring import CellScores

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"
CSV_FILE = "results.csv"
TRANSCRIPTS_FILE = "transcripts.html"
FIGURE_FOLDER = "figures"


@dataclass(frozen=True, slots=True)
class Report:
    """A finished report."""

    name: str
    """Name of the sweep."""
    headline: tuple[str, ...]
    """What came out, in a few sentences."""
    markdown: str
    """The report as Markdown."""
    html: str
    """The report as one HTML file."""
    csv: str
    """A line per cell and failed trial."""
    figures: dict[str, str]
    """SVG text by file name."""
    transcripts: str = ""
    """The page of transcripts as one HTML file; empty where none was read."""
    run_id: str = ""
    """Parent run in MLflow; empty if the results came from memory."""
    scores: "tuple[CellScores, ...]" = ()
    """Scores of the cells over all tasks."""

    def write(self, folder: Path) -> Path:
        """Write every file into a folder, which is made if need be.

        Returns:
            The HTML file.
        """
        (folder / FIGURE_FOLDER).mkdir(parents=True, exist_ok=True)
        (folder / MARKDOWN_FILE).write_text(self.markdown, encoding="utf-8")
        (folder / CSV_FILE).write_text(self.csv, encoding="utf-8")
        if self.transcripts:
            (folder / TRANSCRIPTS_FILE).write_text(self.transcripts, encoding="utf-8")
        for name, svg in self.figures.items():
            (folder / FIGURE_FOLDER / name).write_text(svg, encoding="utf-8")
        page = folder / HTML_FILE
        page.write_text(self.html, encoding="utf-8")
        return page


def of_results(
    results: SweepResults, run_id: str = "", run_pages: Mapping[str, str] | None = None
) -> Report:
    """The report of results in memory.

    Args:
        results: what the sweep left.
        run_id: parent run in MLflow.
        run_pages: address of the page of a trial's run, by the trial's id, to be linked to.
    """
    from sweeps.report import browser, render
    from sweeps.report.document import compose

    document = compose(results)
    figures = (*document.figures, *document.oversight_figures)
    return Report(
        name=results.summary.name,
        headline=document.headline,
        markdown=render.markdown_text(document, FIGURE_FOLDER),
        html=render.html_text(document, TRANSCRIPTS_FILE),
        csv=render.csv_text(document),
        figures={f"{figure.name}.svg": figure.svg for figure in figures},
        transcripts=browser.page(results.summary.name, results.transcripts, run_pages or {}),
        run_id=run_id,
        scores=document.by_cell,
    )


def build(tracking_uri: str, sweep: str) -> Report:
    """The report of a sweep that was logged to MLflow.

    Args:
        tracking_uri: where it was logged.
        sweep: name of the sweep; or its key, or the id of its parent run.

    Raises:
        UserError: the tracking server cannot be reached, or holds no results of such a sweep.
    """
    from sweeps.tracking import results_folder, run_pages

    folder, run_id = results_folder(tracking_uri, sweep)
    results = SweepResults.load(folder)
    pages = run_pages(tracking_uri, results.summary) if results.transcripts.examples else {}
    return of_results(results, run_id, pages)
