"""Figures of oversight: who wins, how calibrated judges are, how length and persuasion matter."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from sweeps.report.drawing import COLOURS, GREY, STYLE, Figure, svg, with_errors
from sweeps.report.oversight import Judge, RatedGroup
from w2s.statistics import Estimate

MAX_DRAWN = 8
"""Judges in one figure; the tables have all."""
MAX_GROUPS = 4
"""Groups of rated debaters in one figure."""


def all_figures(found: Sequence[Judge], groups: Sequence[RatedGroup]) -> list[Figure]:
    """Every figure that these judges have something to show in."""
    drawn = list(found[:MAX_DRAWN])
    with mpl.rc_context(STYLE):
        made = (
            win_rates([judge for judge in found if judge.has_speakers][:MAX_DRAWN]),
            reliability(drawn),
            lengths([judge for judge in found if len(judge.by_length) > 1][:MAX_DRAWN]),
            ratings(groups[:MAX_GROUPS]),
        )
    return [figure for figure in made if figure is not None]


def _of(judges: Sequence[Judge]) -> str:
    tasks = dict.fromkeys(judge.task for judge in judges)
    return f" {', '.join(tasks)}; the first {MAX_DRAWN} judges." if len(tasks) > 1 else ""


def _labels(judges: Sequence[Judge]) -> list[str]:
    several = len({judge.task for judge in judges}) > 1
    pairs = len({(judge.weak, judge.strong) for judge in judges}) > 1
    return [
        ", ".join(
            [judge.method]
            + ([f"{judge.weak} > {judge.strong}"] if pairs else [])
            + ([judge.task] if several else [])
        )
        for judge in judges
    ]


def win_rates(judges: Sequence[Judge]) -> Figure | None:
    """Win rates of side A, the last speaker, the longer and the honest side."""
    if not judges:
        return None
    series = (
        ("win_a", "A", COLOURS[5], "v"),
        ("win_last", "last speaker", COLOURS[4], "^"),
        ("win_longer", "longer side", COLOURS[3], "D"),
        ("win_honest", "honest side", COLOURS[2], "o"),
    )
    canvas, axes = plt.subplots(figsize=(6.6, 1.3 + 0.62 * len(judges)))
    places = np.arange(len(judges))[::-1]
    axes.axvline(50, color=GREY, linewidth=1)
    for number, (name, label, colour, marker) in enumerate(series):
        known = [
            (place, rate)
            for place, judge in zip(places, judges, strict=True)
            if (rate := judge.rate(name)) is not None
        ]
        if not known:
            continue
        points, errors = with_errors([rate for _, rate in known])
        axes.errorbar(
            points,
            [place + 0.27 - 0.18 * number for place, _ in known],
            xerr=errors,
            fmt=marker,
            color=colour,
            markersize=6,
            elinewidth=1.4,
            label=label,
        )
    axes.set_yticks(places, _labels(judges))
    axes.set_ylim(-0.6, len(judges) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("wins (%)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Figure(
        "oversight_wins",
        "Who convinces the judge",
        "A judge that only the truth convinces has the honest side at 100 % and the others at 50 %."
        " Bars: 95 % intervals over rows and replicates." + _of(judges),
        svg(canvas),
    )


def reliability(judges: Sequence[Judge]) -> Figure | None:
    """Accuracy of answers by their confidence, with and without transcripts."""
    if not judges:
        return None
    canvas, grid = plt.subplots(1, 2, figsize=(8.2, 3.6), sharex=True, sharey=True)
    labels = _labels(judges)
    for axes, name in zip(grid, ("without", "with"), strict=True):
        axes.plot([50, 100], [50, 100], color=GREY, linewidth=1)
        for index, judge in enumerate(judges):
            bins = judge.reliability(name)
            axes.plot(
                [100 * each.confidence for each in bins],
                [100 * each.accuracy for each in bins],
                marker="o",
                markersize=4,
                linewidth=1.4,
                color=COLOURS[index % len(COLOURS)],
                label=labels[index],
            )
        axes.set_title(f"{name} transcripts")
        axes.set_xlabel("confidence (%)")
    grid[0].set_ylabel("right (%)")
    grid[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Figure(
        "oversight_reliability",
        "Calibration of judges",
        "Share of right answers among those of similar confidence (probability of the answer "
        "given, in bins of ten points). On the line: calibrated; below it: overconfident."
        + _of(judges),
        svg(canvas),
        folded=True,
    )


def lengths(judges: Sequence[Judge]) -> Figure | None:
    """Accuracy by quarters of the rows by length of the transcript."""
    if not judges:
        return None
    canvas, axes = plt.subplots(figsize=(5.6, 3.4))
    labels = _labels(judges)
    for index, judge in enumerate(judges):
        parts = judge.by_length
        axes.plot(
            [part.words for part in parts],
            [100 * part.right.mean() for part in parts],
            marker="o",
            markersize=5,
            linewidth=1.4,
            color=COLOURS[index % len(COLOURS)],
            label=labels[index],
        )
    axes.set_xlabel("words in the transcript")
    axes.set_ylabel("judge is right (%)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Figure(
        "oversight_lengths",
        "Judges and the length of transcripts",
        "Rows in four parts by the length of their transcripts." + _of(judges),
        svg(canvas),
        folded=True,
    )


def ratings(groups: Sequence[RatedGroup]) -> Figure | None:
    """Elo of honest and dishonest debaters, a panel for each kind of judge."""
    if not groups:
        return None
    most = max(len({rating.model for rating in group.ratings}) for group in groups)
    canvas, grid = plt.subplots(
        1,
        len(groups),
        figsize=(1.2 + 3.0 * len(groups), 1.4 + 0.5 * most),
        squeeze=False,
        gridspec_kw={"wspace": 0.45},
    )
    for axes, group in zip(grid[0], groups, strict=True):
        _ratings_panel(axes, group)
    grid[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Figure(
        "oversight_ratings",
        "Persuasiveness and truth",
        "Elo of each model as honest and as dishonest debater, by the choices of its judges; bars: "
        "95 % intervals over rows and replicates. Where honest is to the right of dishonest, the "
        "judge is drawn to the truth.",
        svg(canvas),
    )


def _ratings_panel(axes: Axes, group: RatedGroup) -> None:
    models = list(dict.fromkeys(rating.model for rating in group.ratings))
    axes.axvline(0, color=GREY, linewidth=1)
    for role, colour, marker in (("honest", COLOURS[2], "o"), ("dishonest", COLOURS[1], "s")):
        mine = [rating for rating in group.ratings if rating.role == role]
        elos: list[Estimate] = [rating.elo for rating in mine]
        axes.errorbar(
            [elo.point for elo in elos],
            [len(models) - 1 - models.index(rating.model) for rating in mine],
            xerr=[
                [max(0.0, elo.point - elo.low) for elo in elos],
                [max(0.0, elo.high - elo.point) for elo in elos],
            ],
            fmt=marker,
            color=colour,
            markersize=6,
            elinewidth=1.4,
            label=role,
        )
    axes.set_yticks(range(len(models))[::-1], models)
    axes.set_ylim(-0.6, len(models) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_title(group.judge)
    axes.set_xlabel("Elo points")
