"""Time and memory of a report on a sweep of the paper's size, and of its AUROC intervals.

    python benchmarks/report.py [--json] [--tasks 22] [--rows 2000] [--seeds 3]

Predictions are made up: five rungs, all ten pairs on every task, two classes. Seconds are those of
the processor, of one thread; memory is the peak of the process, the results included.
"""

import argparse
import json
import resource
import time

import numpy as np
import pandas as pd

from sweeps import report
from sweeps.pooled import pooled_rows
from sweeps.results import (
    RungSummary,
    SeedKeys,
    SweepResults,
    SweepSummary,
    TaskSummary,
    TrialResult,
)
from w2s.resamples import Resamples

SIZES = {"xs": 14e6, "s": 70e6, "m": 160e6, "l": 410e6, "xl": 1e9}
ACCURACY = {"xs": 0.62, "s": 0.68, "m": 0.75, "l": 0.82, "xl": 0.9}


def main() -> None:
    """Print one table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tasks", type=int, default=22)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    tasks = [f"task {index}" for index in range(arguments.tasks)]
    results = made_up(tasks, arguments.rows, arguments.seeds)
    started = time.process_time()
    built = report.of_results(results)
    report_s = time.process_time() - started
    rng = np.random.default_rng(0)
    positive_N = rng.random(arguments.rows) < 0.5
    scores_KN = rng.normal(size=(3 * arguments.seeds, arguments.rows)) + positive_N
    started = time.process_time()
    Resamples(arguments.rows, seed=0).auroc(scores_KN, positive_N)
    auroc_s = time.process_time() - started
    figures = {
        "evaluations": len(set(results.rows["key"])),
        "rows": len(results.rows),
        "report_s": round(report_s, 2),
        "auroc_of_one_comparison_s": round(auroc_s, 3),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "html_mb": round(len(built.html) / 1e6, 2),
    }
    for name, value in figures.items():
        print(f"{name:28}{value:>14,}")
    if arguments.json:
        print(json.dumps(figures))


def made_up(tasks: list[str], num_rows: int, num_seeds: int) -> SweepResults:
    """A finished sweep: floors, students of every pair and ceilings at every seed."""
    frames: dict[str, pd.DataFrame] = {}
    trials = []
    for number, task in enumerate(tasks):
        rng = np.random.default_rng(number)
        labels_N, luck_N = rng.integers(0, 2, num_rows), rng.random(num_rows)

        def evaluation(name: str, accuracy: float, rng=rng, labels=labels_N, luck=luck_N) -> str:
            if name not in frames:
                right_N = 0.5 * luck + 0.5 * rng.random(num_rows) < accuracy
                sure_N = 0.5 + 0.5 * rng.random(num_rows)
                prob_1 = np.where(right_N == (labels == 1), sure_N, 1 - sure_N)
                test = pd.DataFrame(
                    {
                        "split": "test",
                        "row_id": [f"{name.split('/')[0]}-{i}" for i in range(num_rows)],
                        "group": [f"g{i // 2}" for i in range(num_rows)],
                        "label": labels,
                        "predicted": (prob_1 > 0.5).astype(int),
                        "correct": right_N,
                        "prob_0": 1 - prob_1,
                        "prob_1": prob_1,
                    }
                )
                frames[name] = pd.concat([test, test.assign(split="val")])
            return name

        rungs = list(SIZES)
        for weak, strong in ((w, s) for i, w in enumerate(rungs) for s in rungs[i + 1 :]):
            keys = []
            for seed in range(num_seeds):
                floor = evaluation(f"{task}/floor {weak} {seed}", ACCURACY[weak])
                between = (ACCURACY[weak] + ACCURACY[strong]) / 2
                keys.append(
                    SeedKeys(
                        seed=seed,
                        floor=floor,
                        supervisor=floor,
                        student=evaluation(f"{task}/student {weak} {strong} {seed}", between),
                        ceiling=evaluation(f"{task}/ceiling {strong} {seed}", ACCURACY[strong]),
                    )
                )
            trials.append(
                TrialResult(
                    trial_id=f"{task} {weak} {strong}",
                    block="pairs",
                    task=task,
                    weak=weak,
                    strong=strong,
                    method="naive",
                    method_kind="naive",
                    loss="xent",
                    objective=0.5,
                    keys=tuple(keys),
                )
            )
    summary = SweepSummary(
        name="made up",
        sweep_key="0" * 16,
        command="python benchmarks/report.py",
        started=0.0,
        finished=1.0,
        seeds=tuple(range(num_seeds)),
        tasks=tuple(TaskSummary(name=task, num_rows={"test": num_rows}) for task in tasks),
        ladder=tuple(
            RungSummary(name=name, num_parameters=int(size), num_non_embedding=int(size))
            for name, size in SIZES.items()
        ),
        blocks=("pairs",),
    )
    return SweepResults(summary, tuple(trials), pooled_rows(frames.items()))


if __name__ == "__main__":
    main()
