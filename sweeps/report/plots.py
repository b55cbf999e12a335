"""The figures of the report, as SVG: light, colour-blind safe, the same bytes for the same numbers.

Each function returns a `Figure`, or None where the sweep has nothing to show in it. Text stays
text in the SVG, so that it can be searched and takes the page's font.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sweeps.report.load import Board
from sweeps.report.scoring import PLAIN_LOSS, PLAIN_METHOD, CellScores
from w2s.statistics import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#555555")
"""Okabe and Ito's palette, darkest first."""
GREY = "#8a8f98"
INK = "#22262b"
MAX_CURVE_LABELS = 8

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


def all_figures(board: Board, scores: Sequence[CellScores]) -> list[Figure]:
    """Every figure that this sweep has something to show in."""
    with mpl.rc_context(STYLE):
        made = (
            accuracy_by_size(board, scores),
            pgr_map(board, scores),
            methods(scores),
            hyperparameters(board),
            curves(board),
        )
    return [figure for figure in made if figure is not None]


def accuracy_by_size(board: Board, scores: Sequence[CellScores]) -> Figure | None:
    """Test accuracy against the strong model's size (Burns et al. 2023, figure 3)."""
    plain = _plain(scores)
    if not plain:
        return None
    size = {rung.name: rung.num_non_embedding for rung in board.results.summary.ladder}
    rungs = [rung.name for rung in board.results.summary.ladder]
    canvas, axes = plt.subplots(figsize=(6.6, 4.2))
    floors = {s.cell.weak: s.compared.floor for s in plain}
    ceilings = {s.cell.strong: s.compared.ceiling for s in plain}
    by_size = [rung for rung in rungs if rung in ceilings]
    _line(
        axes,
        [size[rung] for rung in by_size],
        [ceilings[rung] for rung in by_size],
        label="strong ceiling",
        color=INK,
        linestyle="--",
        marker="D",
    )
    weak_rungs = [rung for rung in rungs if rung in floors]
    for index, weak in enumerate(weak_rungs):
        colour = COLOURS[index % len(COLOURS)]
        mine = sorted((s for s in plain if s.cell.weak == weak), key=lambda s: size[s.cell.strong])
        _line(
            axes,
            [size[scored.cell.strong] for scored in mine],
            [scored.compared.student for scored in mine],
            label=f"student of {weak}",
            color=colour,
            marker="o",
        )
        axes.axhline(100 * floors[weak].point, color=colour, linewidth=0.8, linestyle=":")
        _line(
            axes,
            [size[weak]],
            [floors[weak]],
            label=None,
            color=colour,
            marker="s",
            fill=False,
        )
    axes.plot(
        [], [], "s:", color=GREY, markerfacecolor="white", linewidth=0.8, label="weak model alone"
    )
    axes.set_xscale("log")
    shown = [rung for rung in rungs if rung in floors or rung in ceilings]
    axes.set_xticks([size[rung] for rung in shown])
    axes.set_xticklabels([f"{rung}\n{_short(size[rung])}" for rung in shown])
    axes.minorticks_off()
    axes.set_xlabel("strong model (parameters without embeddings)")
    axes.set_ylabel("test accuracy (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    method, loss = plain[0].cell.method, plain[0].cell.loss
    return Figure(
        "accuracy_by_size",
        "Accuracy against the size of the strong model",
        f"Students finetuned on weak labels ({method}, {loss}), one line per weak supervisor; its "
        "own accuracy is the open square and the dotted line. Dashed: the strong model finetuned "
        "on ground truth. Bars: 95 % intervals over rows and seeds.",
        _svg(canvas),
    )


def pgr_map(board: Board, scores: Sequence[CellScores]) -> Figure | None:
    """PGR of each weak by strong pair."""
    plain = _plain(scores)
    if len(plain) < 2:
        return None
    rungs = [rung.name for rung in board.results.summary.ladder]
    weak = [rung for rung in rungs if any(s.cell.weak == rung for s in plain)]
    strong = [rung for rung in rungs if any(s.cell.strong == rung for s in plain)]
    values = np.full((len(weak), len(strong)), np.nan)
    labels: dict[tuple[int, int], str] = {}
    for scored in plain:
        place = weak.index(scored.cell.weak), strong.index(scored.cell.strong)
        pgr = scored.compared.pgr
        if pgr is None:
            labels[place] = "gap too\nsmall"
        else:
            values[place] = pgr.point
            labels[place] = f"{pgr.point:.2f}\n[{pgr.low:.2f}, {pgr.high:.2f}]"
    width, height = 1.6 + 1.15 * len(strong), 1.1 + 0.75 * len(weak)
    canvas, axes = plt.subplots(figsize=(width, height))
    colours = mpl.colormaps["cividis"].with_extremes(bad="#f1f2f4")
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (row, column), label in labels.items():
        value = values[row, column]
        dark = not np.isnan(value) and value < 0.5
        axes.text(
            column,
            row,
            label,
            ha="center",
            va="center",
            fontsize=9,
            color="white" if dark else INK,
        )
    axes.set_xticks(range(len(strong)), strong)
    axes.set_yticks(range(len(weak)), weak)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlabel("strong model")
    axes.set_ylabel("weak supervisor")
    bar = canvas.colorbar(image, ax=axes, pad=0.03)
    bar.set_label("PGR")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    method, loss = plain[0].cell.method, plain[0].cell.loss
    return Figure(
        "pgr_map",
        "Performance gap recovered, weak by strong",
        f"{method}, {loss}. Colours end at 0 and 1; in brackets 95 % intervals. No ratio is shown "
        "where the gap between ceiling and floor is within noise.",
        _svg(canvas),
    )


def methods(scores: Sequence[CellScores]) -> Figure | None:
    """Supervisor and student of each method, on the pair with most methods."""
    groups: dict[tuple[str, str, str], dict[str, CellScores]] = {}
    for scored in scores:
        cell = scored.cell
        if not cell.num_searched:
            group = groups.setdefault((cell.weak, cell.strong, cell.loss), {})
            group.setdefault(cell.method, scored)
    if not groups:
        return None
    (weak, strong, loss), group = max(groups.items(), key=lambda item: len(item[1]))
    if len(group) < 2:
        return None
    shown = list(group.values())
    canvas, axes = plt.subplots(figsize=(6.6, 1.3 + 0.42 * len(shown)))
    places = np.arange(len(shown))[::-1]
    reference = shown[0].compared
    for estimate, label in ((reference.floor, "floor"), (reference.ceiling, "ceiling")):
        axes.axvspan(100 * estimate.low, 100 * estimate.high, color=GREY, alpha=0.15, linewidth=0)
        axes.axvline(100 * estimate.point, color=GREY, linewidth=1)
        axes.text(
            100 * estimate.point,
            len(shown) - 0.35,
            label,
            ha="center",
            va="bottom",
            fontsize=9,
            color="#5c626b",
        )
    for offset, colour, marker, label, estimates in (
        (0.13, COLOURS[1], "s", "supervisor", [s.supervisor for s in shown]),
        (-0.13, COLOURS[0], "o", "student", [s.compared.student for s in shown]),
    ):
        points, errors = _with_errors(estimates)
        axes.errorbar(
            points,
            places + offset,
            xerr=errors,
            fmt=marker,
            color=colour,
            markersize=6,
            elinewidth=1.4,
            label=label,
        )
    axes.set_yticks(places, [scored.cell.method for scored in shown])
    axes.set_ylim(-0.6, len(shown) - 0.35)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("test accuracy (%)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Figure(
        "methods",
        "Supervisors and students by method",
        f"{weak} supervises {strong}, {loss}. Bars and bands: 95 % intervals over rows and seeds.",
        _svg(canvas),
    )


def hyperparameters(board: Board) -> Figure | None:
    """Score on `val` of every searched point against each hyperparameter."""
    searches = [[t for t in s if t.objective is not None] for s in board.searches()]
    searches = [search for search in searches if search]
    paths = list(
        dict.fromkeys(
            path
            for search in searches
            for trial in search
            for path, value in trial.hyperparameters.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        )
    )
    if not paths:
        return None
    canvas, grid = plt.subplots(
        1, len(paths), figsize=(max(4.2, 3.3 * len(paths)), 3.2), sharey=True, squeeze=False
    )
    several = len(board.results.summary.tasks) > 1
    logarithmic = _searched_by_magnitude(board.results.summary.spec)
    for axes, path in zip(grid[0], paths, strict=True):
        for index, search in enumerate(searches):
            colour = COLOURS[index % len(COLOURS)]
            mine = [trial for trial in search if path in trial.hyperparameters]
            xs = [float(trial.hyperparameters[path]) for trial in mine]
            ys = [trial.objective or 0.0 for trial in mine]
            first = search[0]
            label = f"{first.loss}, {first.weak}>{first.strong}"
            axes.scatter(
                xs,
                ys,
                s=26,
                color=colour,
                alpha=0.75,
                linewidth=0,
                label=f"{label}, {first.task}" if several else label,
            )
            if mine and mine[0].status == "done":
                axes.scatter(
                    xs[:1], ys[:1], s=90, facecolor="none", edgecolor=colour, linewidth=1.6
                )
        if path in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(path)
    grid[0][0].set_ylabel(f"{board.results.summary.objective} on val")
    grid[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Figure(
        "hyperparameters",
        "Hyperparameters against the score on val",
        "Each dot is one point of the search, the mean of its seeds; ringed: the chosen one.",
        _svg(canvas),
    )


def _searched_by_magnitude(spec: Any) -> set[str]:
    """Paths whose values the sweep draws on a log scale."""
    spaces = [block.get("space", {}) for block in spec.get("blocks", [])]
    return {path for space in spaces for path, d in space.items() if d.get("log_uniform")}


def curves(board: Board) -> Figure | None:
    """Training loss against steps, a panel per kind of stage."""
    frame = board.results.curves
    frame = frame[frame["metric"] == "loss"]
    kinds = list(dict.fromkeys(frame["kind"]))
    if not kinds:
        return None
    canvas, grid = plt.subplots(
        1, len(kinds), figsize=(4.6 * len(kinds), 3.2), squeeze=False, layout="constrained"
    )
    for axes, kind in zip(grid[0], kinds, strict=True):
        _curves_panel(axes, kind, frame.loc[frame["kind"] == kind])
    return Figure(
        "curves",
        "Training curves",
        "Training loss, one line per stage; stages that differ only in their seed share a colour.",
        _svg(canvas),
    )


def _curves_panel(axes: Axes, kind: str, frame: pd.DataFrame) -> None:
    families = list(dict.fromkeys(_family(name) for name in frame["name"]))
    named: set[str] = set()
    for _, stage in frame.groupby("key", sort=False):
        family = _family(str(stage["name"].iloc[0]))
        label = family.removeprefix(f"{kind}-")
        axes.plot(
            stage["step"].to_numpy(),
            stage["value"].to_numpy(),
            color=COLOURS[families.index(family) % len(COLOURS)],
            linewidth=1.1,
            alpha=0.8 if len(families) <= MAX_CURVE_LABELS else 0.45,
            label=None if family in named else label,
        )
        named.add(family)
    axes.set_title(kind)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    if len(families) <= MAX_CURVE_LABELS:
        axes.legend(loc="upper right")


def _family(name: str) -> str:
    """A stage's name without its seed."""
    return re.sub(r"-s\d+$", "", name)


def _plain(scores: Sequence[CellScores]) -> list[CellScores]:
    """The pairs of different models under the plain method and loss, each once."""
    found: dict[tuple[str, str], CellScores] = {}
    for scored in scores:
        cell = scored.cell
        is_plain = (cell.method, cell.loss) == (PLAIN_METHOD, PLAIN_LOSS)
        if is_plain and cell.weak != cell.strong and not cell.num_searched:
            found.setdefault((cell.weak, cell.strong), scored)
    return list(found.values())


def _with_errors(estimates: Sequence[Estimate]) -> tuple[list[float], list[list[float]]]:
    """Points in percent, and their distances to both ends of the interval."""
    points = [100 * estimate.point for estimate in estimates]
    below = [max(0.0, 100 * (estimate.point - estimate.low)) for estimate in estimates]
    above = [max(0.0, 100 * (estimate.high - estimate.point)) for estimate in estimates]
    return points, [below, above]


def _line(
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
    points, errors = _with_errors(estimates)
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


def _short(number: int) -> str:
    """`1.2 M` for 1200000."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _svg(canvas: Canvas) -> str:
    """The drawing as an `<svg>` element, without what changes from run to run."""
    file = io.StringIO()
    canvas.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(canvas)
    text = file.getvalue()
    return text[text.index("<svg") :]
