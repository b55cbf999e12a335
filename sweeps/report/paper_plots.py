"""Figures of Burns et al. 2023 and of its successors: size, tasks, agreement, stopping, difficulty.

Each function returns a `Figure`, or None where the sweep has nothing to show in it.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from sweeps.report.drawing import COLOURS, GREY, INK, Figure, line, plain, short, svg
from sweeps.report.load import Board
from sweeps.report.scoring import PLAIN_LOSS, PLAIN_METHOD, CellScores
from sweeps.results import Role
from w2s import statistics
from w2s.stages.checkpoints import CHOICES, Choice

MAX_LINES = len(COLOURS)
"""Lines told apart by colour."""
MAX_PANELS = 6
"""Pairs that have a panel of their own."""
PGR_LIMITS = (-0.5, 1.5)
"""Ratios beyond are drawn at the edge."""
STOP_MARKS: dict[Choice, tuple[str, str]] = {
    "last": ("s", "last"),
    "best_val": ("o", "best on weak validation"),
    "oracle": ("*", "oracle (diagnostic)"),
}


def accuracy_by_size(board: Board, scores: Sequence[CellScores]) -> Figure | None:
    """Test accuracy against the strong model's size (Burns et al. 2023, figure 3)."""
    pairs = plain(scores)
    if not pairs:
        return None
    size = {rung.name: rung.num_non_embedding for rung in board.results.summary.ladder}
    rungs = [rung.name for rung in board.results.summary.ladder]
    canvas, axes = plt.subplots(figsize=(6.6, 4.2))
    floors = {s.cell.weak: s.compared.floor for s in pairs}
    ceilings = {s.cell.strong: s.compared.ceiling for s in pairs}
    by_size = [rung for rung in rungs if rung in ceilings]
    line(
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
        mine = sorted((s for s in pairs if s.cell.weak == weak), key=lambda s: size[s.cell.strong])
        line(
            axes,
            [size[scored.cell.strong] for scored in mine],
            [scored.compared.student for scored in mine],
            label=f"student of {weak}",
            color=colour,
            marker="o",
        )
        axes.axhline(100 * floors[weak].point, color=colour, linewidth=0.8, linestyle=":")
        line(
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
    axes.set_xticklabels([f"{rung}\n{short(size[rung])}" for rung in shown])
    axes.minorticks_off()
    axes.set_xlabel("strong model (parameters without embeddings)")
    axes.set_ylabel("test accuracy (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    method, loss = pairs[0].cell.method, pairs[0].cell.loss
    return Figure(
        "accuracy_by_size",
        "Accuracy against the size of the strong model",
        f"Students finetuned on weak labels ({method}, {loss}), one line per weak supervisor; its "
        "own accuracy is the open square and the dotted line. Dashed: the strong model finetuned "
        "on ground truth. Bars: 95 % intervals over rows and seeds.",
        svg(canvas),
    )


def accuracy_by_task(board: Board, by_task: Sequence[CellScores]) -> Figure | None:
    """The same for each task, as small multiples."""
    tasks = [task.name for task in board.results.summary.tasks]
    found = {
        task: plain([scored for scored in by_task if scored.cell.trials[0].task == task])
        for task in tasks
    }
    found = {task: pairs for task, pairs in found.items() if pairs}
    if len(found) < 2:
        return None
    ladder = board.results.summary.ladder
    size = {rung.name: rung.num_non_embedding for rung in ladder}
    rungs = [rung.name for rung in ladder]
    columns = min(4, len(found))
    lines = -(-len(found) // columns)
    canvas, grid = plt.subplots(
        lines,
        columns,
        figsize=(2.6 * columns, 2.1 * lines + 0.6),
        sharex=True,
        squeeze=False,
        gridspec_kw={"wspace": 0.25, "hspace": 0.3},
    )
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    for place, (task, pairs) in enumerate(found.items()):
        axes = grid.flat[place]
        axes.tick_params(labelbottom=place + columns >= len(found))
        ceilings = {size[s.cell.strong]: s.compared.ceiling.point for s in pairs}
        sizes = sorted(ceilings)
        heights = [100 * ceilings[each] for each in sizes]
        axes.plot(sizes, heights, "--", color=INK, linewidth=1.1)
        for weak in rungs:
            mine = sorted(
                (s for s in pairs if s.cell.weak == weak), key=lambda s: size[s.cell.strong]
            )
            if not mine:
                continue
            colour = COLOURS[rungs.index(weak) % len(COLOURS)]
            axes.plot(
                [size[s.cell.strong] for s in mine],
                [100 * s.compared.student.point for s in mine],
                "o-",
                color=colour,
                markersize=3.5,
                linewidth=1.2,
            )
            axes.axhline(
                100 * mine[0].compared.floor.point, color=colour, linewidth=0.8, linestyle=":"
            )
        axes.set_xscale("log")
        axes.set_xticks([size[rung] for rung in rungs], rungs, fontsize=8)
        axes.minorticks_off()
        axes.tick_params(axis="y", labelsize=8)
        axes.set_title(task, fontsize=9)
    grid[0][0].set_ylabel("test accuracy (%)")
    return Figure(
        "accuracy_by_task",
        "Accuracy against size, task by task",
        "As above for every task: students (one colour per weak supervisor), weak models alone "
        "(dotted) and ceilings (dashed).",
        svg(canvas),
        folded=True,
    )


def pgr_by_task(by_task: Sequence[CellScores]) -> Figure | None:
    """PGR of each task with medians, by method and loss (Burns et al. 2023, section 4)."""
    ratios: dict[tuple[str, str], dict[str, list[float]]] = {}
    for scored in by_task:
        cell, pgr = scored.cell, scored.compared.pgr
        if pgr is not None and cell.weak != cell.strong:
            name = cell.method, cell.loss + (" (best)" if cell.num_searched else "")
            by_name = ratios.setdefault(name, {})
            by_name.setdefault(cell.trials[0].task, []).append(pgr.point)
    # Those that were tried on most tasks; of equals the first of the sweep.
    shown = sorted(ratios, key=lambda name: -len(ratios[name]))[:MAX_LINES]
    medians = {
        name: {task: float(np.median(values)) for task, values in ratios[name].items()}
        for name in shown
    }
    tasks = list(dict.fromkeys(task for name in shown for task in medians[name]))
    if len(tasks) < 2:
        return None
    first = medians[shown[0]]
    tasks.sort(key=lambda task: first.get(task, -np.inf))
    canvas, axes = plt.subplots(figsize=(6.6, 1.2 + 0.26 * len(tasks)))
    for index, name in enumerate(shown):
        colour = COLOURS[index]
        known = [task for task in tasks if task in medians[name]]
        axes.scatter(
            np.clip([medians[name][task] for task in known], *PGR_LIMITS),
            [tasks.index(task) + 0.12 * (index - (len(shown) - 1) / 2) for task in known],
            s=22,
            color=colour,
            linewidth=0,
            label=", ".join(name),
            zorder=3,
        )
        middle = float(np.median(list(medians[name].values())))
        axes.axvline(np.clip(middle, *PGR_LIMITS), color=colour, linewidth=1.3, alpha=0.7)
    axes.set_yticks(range(len(tasks)), tasks, fontsize=9)
    axes.set_xlim(PGR_LIMITS[0] - 0.05, PGR_LIMITS[1] + 0.05)
    axes.set_xlabel("PGR")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return Figure(
        "pgr_by_task",
        "Performance gap recovered, task by task",
        "Dots: the PGR of each task, the median over its pairs; lines: the median over tasks. "
        "Pairs whose gap is within noise are left out; ratios beyond the axis are drawn at its "
        "edge.",
        svg(canvas),
    )


def agreement_by_size(board: Board, scores: Sequence[CellScores]) -> Figure | None:
    """Agreement with the weak supervisor against the student's size (Burns et al. 2023, 5.1.3)."""
    size = {rung.name: rung.num_non_embedding for rung in board.results.summary.ladder}
    rungs = [rung.name for rung in board.results.summary.ladder]
    groups: dict[tuple[str, str], dict[str, CellScores]] = {}
    for scored in scores:
        cell = scored.cell
        if cell.method == PLAIN_METHOD and cell.weak != cell.strong and not cell.num_searched:
            groups.setdefault((cell.weak, cell.loss), {}).setdefault(cell.strong, scored)
    groups = {group: found for group, found in groups.items() if len(found) > 1}
    losses = list(dict.fromkeys(loss for _, loss in groups))
    losses.sort(key=lambda loss: loss != PLAIN_LOSS)
    losses = losses[:3]
    if not groups:
        return None
    canvas, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.4), gridspec_kw={"wspace": 0.25})
    for (weak, loss), found in groups.items():
        if loss not in losses:
            continue
        mine = sorted(found.values(), key=lambda s: size[s.cell.strong])
        for axes, estimates in (
            (left, [s.agreement for s in mine]),
            (right, [s.agreement_wrong for s in mine]),
        ):
            known = [(s, e) for s, e in zip(mine, estimates, strict=True) if e is not None]
            line(
                axes,
                [size[s.cell.strong] for s, _ in known],
                [estimate for _, estimate in known],
                label=f"{weak}, {loss}" if len(losses) > 1 else weak,
                color=COLOURS[rungs.index(weak) % len(COLOURS)],
                marker="o",
                linestyle=("-", "--", ":")[losses.index(loss)],
            )
    strong = sorted({s.cell.strong for found in groups.values() for s in found.values()})
    for axes, title in ((left, "all rows"), (right, "rows that the supervisor has wrong")):
        axes.set_xscale("log")
        axes.set_xticks([size[rung] for rung in strong], strong)
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel("student (parameters without embeddings)")
    left.set_ylabel("agreement with the supervisor (%)")
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="supervisor")
    return Figure(
        "agreement_by_size",
        "Agreement with the weak supervisor against size",
        "Share of test rows on which the student says what its supervisor says, of all rows and of "
        "those that the supervisor has wrong. A falling line is inverse scaling: larger students "
        "imitate less. Bars: 95 % intervals over rows and seeds.",
        svg(canvas),
    )


def overfitting(board: Board, scores: Sequence[CellScores]) -> Figure | None:
    """Test accuracy along training, and where three rules stop (Burns et al. 2023, 5.1.1)."""
    shown = [scored for scored in plain(scores) if scored.stopping]
    shown = shown or [scored for scored in scores if scored.stopping]
    shown.sort(key=lambda scored: -scored.compared.gap.point)
    shown = shown[:MAX_LINES]
    if not shown:
        return None
    canvas, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.4), gridspec_kw={"wspace": 0.25})
    checkpoints = board.results.checkpoints.sort_values("step")
    runs = {str(key): run for key, run in checkpoints.groupby("key", sort=False)}
    for colour, scored in zip(COLOURS, shown, strict=False):
        tasks = [[runs[keys.student] for keys in seeds] for seeds in scored.cell.by_task]
        num_points = min(len(run) for seeds in tasks for run in seeds)
        epochs, accuracy, agreement = (
            np.mean(
                [
                    np.mean([run[column].to_numpy()[:num_points] for run in seeds], axis=0)
                    for seeds in tasks
                ],
                axis=0,
            )
            for column in ("epoch", "test_accuracy", "val_agreement")
        )
        cell = scored.cell
        label = f"{cell.weak}>{cell.strong}"
        if (cell.method, cell.loss) != (PLAIN_METHOD, PLAIN_LOSS):
            label += f", {cell.method}, {cell.loss}"
        left.plot(epochs, 100 * accuracy, color=colour, linewidth=1.5, label=label)
        if not np.isnan(agreement).any():
            right.plot(epochs, 100 * agreement, color=colour, linewidth=1.5)
        for choice, stop in scored.stopping.items():
            stopped = np.mean(
                [
                    np.mean([float(run.loc[run[choice], "epoch"].iloc[0]) for run in seeds])
                    for seeds in tasks
                ]
            )
            left.plot(
                stopped,
                100 * stop.accuracy,
                STOP_MARKS[choice][0],
                color=colour,
                markersize=10 if choice == "oracle" else 6,
                markeredgecolor="white",
            )
    for choice in CHOICES:
        mark, words = STOP_MARKS[choice]
        size = 10 if mark == "*" else 6
        left.plot([], [], mark, color=GREY, markersize=size, markeredgecolor="white", label=words)
    for axes, title, words in (
        (left, "against ground truth", "test accuracy (%)"),
        (right, "against the weak labels", "agreement on val (%)"),
    ):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel(words)
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Figure(
        "overfitting",
        "Overfitting to weak labels",
        "Means over tasks and seeds. A test accuracy that falls while agreement on val rises is "
        "overfitting to the supervisor's errors. The oracle is chosen by ground truth of test: a "
        "diagnostic, no result.",
        svg(canvas),
    )


def difficulty(board: Board, scores: Sequence[CellScores]) -> Figure | None:
    """Accuracy of floor, student and ceiling by the difficulty of the rows (Burns et al., C.2)."""
    shown = plain(scores)
    shown.sort(key=lambda scored: -scored.compared.gap.point)
    shown = shown[:MAX_PANELS]
    levels = sorted(set(board.results.difficulty["difficulty"]))
    if not shown or len(levels) < 2:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    canvas, grid = plt.subplots(
        lines,
        columns,
        figsize=(3.3 * columns + 0.8, 2.7 * lines + 0.3),
        sharey=True,
        squeeze=False,
        gridspec_kw={"wspace": 0.1, "hspace": 0.5},
    )
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, scored in zip(grid.flat, shown, strict=False):
        _difficulty_panel(axes, board, scored, levels)
    grid.flat[len(shown) - 1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    return Figure(
        "difficulty",
        "Accuracy by the difficulty of the rows",
        "Difficulty of a row: the number of rungs that fail on it, trained on ground truth without "
        "it; on the last, no rung is right with all larger ones. Rated by floors and ceilings of "
        "one seed, whose own curves fall by construction; a student's need not. Bars: 95 % "
        "intervals over rows and seeds.",
        svg(canvas),
    )


def _difficulty_panel(axes: Axes, board: Board, scored: CellScores, levels: Sequence[int]) -> None:
    cell = scored.cell
    roles: tuple[tuple[Role, str, str], ...] = (
        ("floor", GREY, "s"),
        ("student", COLOURS[0], "o"),
        ("ceiling", INK, "D"),
    )
    for role, colour, marker in roles:
        numbers = [(level, board.at_level(cell, role, level)) for level in levels]
        known = [(level, statistics.mean_over(found)) for level, found in numbers if found]
        line(
            axes,
            [level for level, _ in known],
            [number.estimate for _, number in known],
            label=role,
            color=colour,
            marker=marker,
        )
    axes.set_xticks(levels)
    axes.set_title(f"{cell.weak} > {cell.strong}")
    axes.set_xlabel("difficulty")


def misfit(scores: Sequence[CellScores]) -> Figure | None:
    """Gain in Brier score against misfit (Charikar et al. 2024, theorem 1)."""
    groups: dict[tuple[str, str], list[CellScores]] = {}
    for scored in scores:
        cell = scored.cell
        if cell.weak != cell.strong:
            groups.setdefault((cell.method, cell.loss), []).append(scored)
    shown = sorted(groups, key=lambda name: -len(groups[name]))[:MAX_LINES]
    if sum(len(groups[name]) for name in shown) < 3:
        return None
    canvas, axes = plt.subplots(figsize=(5.2, 4.0))
    for colour, name in zip(COLOURS, shown, strict=False):
        axes.scatter(
            [scored.student.misfit_squared for scored in groups[name]],
            [scored.student.brier_gain for scored in groups[name]],
            s=26,
            color=colour,
            alpha=0.8,
            linewidth=0,
            label=", ".join(name),
        )
    largest = max(s.student.misfit_squared for name in shown for s in groups[name])
    axes.plot([0, largest], [0, largest], "--", color=GREY, linewidth=1, label="gain = misfit")
    axes.set_xlabel("misfit: squared distance to the supervisor")
    axes.set_ylabel("gain: Brier score, supervisor - student")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Figure(
        "misfit",
        "Gain against misfit",
        "One dot per pair and task. For a convex class of students that holds the truth, the gain "
        "is at least the misfit: dots lie on the dashed line or above it. Below it, a student "
        "leaves its supervisor where the supervisor is right.",
        svg(canvas),
    )
