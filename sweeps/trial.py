"""What a Ray Tune trial does: ask the broker for each seed's evaluations, report the objective after each.

A trial holds keys, not stages: it loads neither torch nor any part of the science, and takes no CPU of the cluster.
"""

from typing import Any

import ray
from ray import tune

OBJECTIVE = "objective"
"""Name of the number that Tune and Optuna maximise."""


def run_trial(config: dict[str, Any], broker: Any) -> None:
    """One point, seed by seed.

    Args:
        config: `seeds` (list of {seed, student, roles: keys of evaluate stages}), `objective` (metric on `val`),
            `one_by_one` (a seed is asked for only when the one before it is done, so that a scheduler saves its cost).
        broker: handle of the stage broker.
    """
    seeds = config["seeds"]
    asked = {} if config["one_by_one"] else {item["seed"]: _ask(broker, item) for item in seeds}
    scores: list[float] = []
    for item in seeds:
        answer = asked.get(item["seed"])
        try:
            evaluations = ray.get(answer if answer is not None else _ask(broker, item))
        except ray.exceptions.RayTaskError as error:
            # Reported, not raised: Tune would print a traceback, and the trial did its work.
            tune.report({"failed": str(error.cause), "num_seeds": len(scores), "complete": False})
            return
        student = evaluations[item["student"]]
        scores.append(student["val"][config["objective"]])
        tune.report(
            {
                OBJECTIVE: sum(scores) / len(scores),
                "seed": item["seed"],
                "num_seeds": len(scores),
                "complete": len(scores) == len(seeds),
                **{
                    f"{role}_test": evaluations[key]["test"]["accuracy"]
                    for role, key in item["roles"].items()
                },
            }
        )


def _ask(broker: Any, item: dict[str, Any]) -> Any:
    return broker.evaluations.remote([*item["roles"].values(), *item["members"]])
