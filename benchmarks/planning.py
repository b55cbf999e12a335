"""Time and memory of planning a large sweep: from the spec to every stage with its key and cost.

    python benchmarks/planning.py [--json] [--points 100000] [--tasks 10] [--repeats 1]

A grid over made-up worlds: six rungs, all fifteen pairs, two methods, four losses, and as many
blocks of learning rate, epochs and batch size as the number of points takes, one seed a point. It
does what `w2s plan` does before it looks into the store. Seconds are those of the processor, of
one thread; memory is the peak of the process with torch in it.
"""

import argparse
import json
import resource
import statistics
import time
from itertools import islice, product

from sweeps.config import Sweep
from sweeps.plan import Planner, planned_stages
from w2s.tasks.base import shape_of

RATES = [round(1e-5 * 1.25**i, 10) for i in range(20)]
EPOCHS = (1, 2, 3, 4)
BATCHES = (8, 16, 32, 64)
LOSSES = ("xent", "confidence", "product", "entropy")
METHODS = ("naive", "finetune_ensemble")
RUNGS = 6
PAIRS = RUNGS * (RUNGS - 1) // 2


def main() -> None:
    """Print one table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    sweep = grid(arguments.tasks, arguments.points)
    seconds: dict[str, list[float]] = {"check_s": [], "stages_s": [], "cost_s": []}
    figures = {}
    for _ in range(arguments.repeats):
        planner = Planner(sweep)
        for task in sweep.tasks:
            shape_of(task)  # Reading data is not planning.
        times = [time.process_time()]
        planner.check()
        times.append(time.process_time())
        plan, _searched = planned_stages(planner)
        unshared = plan.num_unshared
        times.append(time.process_time())
        plan.cost()
        times.append(time.process_time())
        for name, start, end in zip(seconds, times, times[1:], strict=False):
            seconds[name].append(end - start)
        figures = {
            "points": len(planner.cells()),
            "stages": len(plan),
            "trainings_unshared": unshared,
        }
        del planner, plan
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    figures |= {name: round(value, 2) for name, value in medians.items()}
    figures["total_s"] = round(sum(medians.values()), 2)
    figures["ms_per_point"] = round(1000 * sum(medians.values()) / figures["points"], 3)
    figures["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    for name, value in figures.items():
        print(f"{name:24}{value:>14,}")
    if arguments.json:
        print(json.dumps(figures))


def grid(
    num_tasks: int, num_points: int, *, seeds: int = 1, methods: tuple[str, ...] = METHODS
) -> Sweep:
    """A sweep with one block a recipe; each block has every task, pair, method and loss."""
    num_blocks = max(1, -(-num_points // (num_tasks * PAIRS * len(methods) * len(LOSSES))))
    recipes = islice(product(RATES, EPOCHS, BATCHES), num_blocks)
    return Sweep.model_validate(
        {
            "name": "planning",
            "tasks": [{"kind": "almanac", "world": {"seed": seed}} for seed in range(num_tasks)],
            "ladder": [
                {
                    "name": f"r{number}",
                    "architecture": {
                        "hidden_size": 32 * (number + 1),
                        "num_layers": 2,
                        "num_heads": 2,
                        "intermediate_size": 64,
                    },
                    "corpus": {
                        "kind": "almanac",
                        "rare_share": 0.3 + 0.1 * number,
                        "custom_share": 0.5,
                    },
                }
                for number in range(RUNGS)
            ],
            "blocks": [
                {
                    "name": f"{rate:g}-{epochs}-{batch}",
                    "methods": methods,
                    "losses": LOSSES,
                    "student": {"learning_rate": rate, "epochs": epochs, "batch_size": batch},
                }
                for rate, epochs, batch in recipes
            ],
            "seeds": list(range(seeds)),
        }
    )


if __name__ == "__main__":
    main()
