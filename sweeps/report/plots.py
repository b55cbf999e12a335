"""The figures of the report, as SVG.

Each function returns a `Figure`, or None where the sweep has nothing to show in it. Those of Burns
et al. 2023 are in `paper_plots`; here are those of methods, searches and training.
"""

import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sweeps.report import paper_plots
from sweeps.report.drawing import COLOURS, GREY, INK, STYLE, Figure, plain, svg, with_errors
from sweeps.report.load import Board
from sweeps.report.scoring import CellScores

MAX_CURVE_LABELS = 8
"""Families of training curves that are told apart by a legend."""
MAX_CURVES = 60
"""Training curves in one panel."""
MAX_CURVE_POINTS = 100
"""Points of one training curve."""


def all_figures(
    board: Board, scores: Sequence[CellScores], by_task: Sequence[CellScores]
) -> list[Figure]:
    """Every figure that this sweep has something to show in.

    Args:
        board: the sweep.
        scores: cells over all tasks.
        by_task: cells on each task of their own; empty for a sweep of one task.
    """
    with mpl.rc_context(STYLE):
        made = (
            paper_plots.accuracy_by_size(board, scores),
            paper_plots.accuracy_by_task(board, by_task),
            pgr_map(board, scores),
            paper_plots.pgr_by_task(by_task),
            paper_plots.agreement_by_size(board, scores),
            methods(scores),
            paper_plots.overfitting(board, scores),
            paper_plots.difficulty(board, scores),
            paper_plots.misfit(by_task or scores),
            hyperparameters(board),
            curves(board),
        )
    return [figure for figure in made if figure is not None]


def pgr_map(board: Board, scores: Sequence[CellScores]) -> Figure | None:
    """PGR of each weak by strong pair."""
    pairs = plain(scores)
    if len(pairs) < 2:
        return None
    rungs = [rung.name for rung in board.results.summary.ladder]
    weak = [rung for rung in rungs if any(s.cell.weak == rung for s in pairs)]
    strong = [rung for rung in rungs if any(s.cell.strong == rung for s in pairs)]
    values = np.full((len(weak), len(strong)), np.nan)
    labels: dict[tuple[int, int], str] = {}
    for scored in pairs:
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
    method, loss = pairs[0].cell.method, pairs[0].cell.loss
    return Figure(
        "pgr_map",
        "Performance gap recovered, weak by strong",
        f"{method}, {loss}. Colours end at 0 and 1; in brackets 95 % intervals. No ratio is shown "
        "where the gap between ceiling and floor is within noise.",
        svg(canvas),
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
        points, errors = with_errors(estimates)
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
        svg(canvas),
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
        svg(canvas),
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
        1, len(kinds), figsize=(4.6 * len(kinds), 3.2), squeeze=False, gridspec_kw={"wspace": 0.25}
    )
    for axes, kind in zip(grid[0], kinds, strict=True):
        _curves_panel(axes, kind, frame.loc[frame["kind"] == kind])
    return Figure(
        "curves",
        "Training curves",
        "Training loss, one line per stage; stages that differ only in their seed share a colour.",
        svg(canvas),
    )


def _curves_panel(axes: Axes, kind: str, frame: pd.DataFrame) -> None:
    names = frame.drop_duplicates("key").set_index("key")["name"].astype(str)
    families = list(dict.fromkeys(map(_family, names)))
    # Spread over all stages, so that of each family some are drawn.
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), MAX_CURVES)).round())
    shown = names.iloc[places.astype(int)]
    stages = dict(iter(frame[frame["key"].isin(shown.index)].groupby("key", observed=True)))
    named: set[str] = set()
    for key, name in shown.items():
        family, stage = _family(name), stages[key]
        every = -(-len(stage) // MAX_CURVE_POINTS)
        axes.plot(
            np.asarray(stage["step"])[::every],
            np.asarray(stage["value"])[::every],
            color=COLOURS[families.index(family) % len(COLOURS)],
            linewidth=1.1,
            alpha=0.8 if len(families) <= MAX_CURVE_LABELS else 0.45,
            label=None if family in named else family.removeprefix(f"{kind}-"),
        )
        named.add(family)
    counted = f"{len(shown)} of {len(names)}" if len(shown) < len(names) else str(len(names))
    axes.set_title(f"{kind} ({counted})")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss")
    if len(families) <= MAX_CURVE_LABELS:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))


def _family(name: str) -> str:
    """A stage's name without its seed."""
    return re.sub(r"-s\d+$", "", name)
