"""What the figures share: `Figure`, colours and style, lines with intervals, SVG text.

Light, colour-blind safe, the same bytes for the same numbers. Text stays text in the SVG, so that
it can be searched and takes the page's font.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from sweeps.report.scoring import PLAIN_LOSS, PLAIN_METHOD, CellScores
from w2s.statistics import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555")
"""Okabe and Ito's palette, darkest first."""
GREY = "#8a8f98"
INK = "#22262b"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "w2s",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b8bdc6",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "grid.color": "#e8eaee",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 96,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn figure."""

    name: str
    """File name without its ending."""
    title: str
    """Heading."""
    caption: str
    """What is drawn, in words."""
    svg: str
    """The drawing."""
    folded: bool = False
    """Whether it is a matter of detail, shown when asked for."""


def plain(scores: Sequence[CellScores]) -> list[CellScores]:
    """The pairs of different models under the plain method and loss, each once."""
    found: dict[tuple[str, str], CellScores] = {}
    for scored in scores:
        cell = scored.cell
        is_plain = (cell.method, cell.loss) == (PLAIN_METHOD, PLAIN_LOSS)
        if is_plain and cell.weak != cell.strong and not cell.num_searched:
            found.setdefault((cell.weak, cell.strong), scored)
    return list(found.values())


def with_errors(estimates: Sequence[Estimate]) -> tuple[list[float], list[list[float]]]:
    """Points in percent, and their distances to both ends of the interval."""
    points = [100 * estimate.point for estimate in estimates]
    below = [max(0.0, 100 * (estimate.point - estimate.low)) for estimate in estimates]
    above = [max(0.0, 100 * (estimate.high - estimate.point)) for estimate in estimates]
    return points, [below, above]


def line(
    axes: Axes,
    sizes: Sequence[float],
    estimates: Sequence[Estimate],
    *,
    label: str | None,
    color: str,
    marker: str,
    linestyle: str = "-",
    fill: bool = True,
) -> None:
    """Draw estimates in percent against sizes, with their intervals."""
    points, errors = with_errors(estimates)
    axes.errorbar(
        sizes,
        points,
        yerr=errors,
        label=label,
        color=color,
        marker=marker,
        markersize=6,
        markerfacecolor=color if fill else "white",
        linestyle=linestyle,
        linewidth=1.6,
        elinewidth=1.1,
    )


def short(number: int) -> str:
    """`1.2 M` for 1200000."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def svg(canvas: Canvas) -> str:
    """The drawing as an `<svg>` element, without what changes from run to run."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(canvas)
    text = file.getvalue()
    return text[text.index("<svg") :]
