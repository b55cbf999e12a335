"""What a Ray Tune trial does: ask the broker for each seed's evaluations, report after each.

A trial holds keys, not stages: it loads neither torch nor any part of the science, and takes no CPU
    of the cluster.
"""

from typing import Any

from ray import tune

from sweeps.client import BrokerClient
from w2s.errors import StageFailed

OBJECTIVE = "objective"
"""Name of the number that Tune and Optuna maximise."""


EVALUATION_FILE = "evaluation.json"
"""What an evaluate stage leaves (`w2s.stages.evaluate`, which a trial does not import)."""


def run_trial(config: dict[str, Any], broker: str, driver: str) -> None:
    """One point, seed by seed.

    Args:
        config: `seeds` (list of {seed, roles: evaluate keys by role, members: more of them,
            analyses: keys of what runs beside them}), `objective` (metric on `val`), `one_by_one`
            (a seed is asked for only when the one before it is done, so that a scheduler saves its
            cost).
        broker: name of the stage broker.
        driver: id of the run that the trial belongs to.
    """
    client = BrokerClient(broker, driver)
    seeds = config["seeds"]
    asked = (
        {} if config["one_by_one"] else {item["seed"]: client.ask(_keys(item)) for item in seeds}
    )
    scores: list[float] = []
    for item in seeds:
        number = asked[item["seed"]] if asked else client.ask(_keys(item))
        try:
            client.wait(number)
            evaluations = client.read_json([*item["roles"].values()], EVALUATION_FILE)
        except StageFailed as error:
            # Reported, not raised: Tune would print a traceback, and the trial did its work.
            tune.report({"failed": str(error), "num_seeds": len(scores), "complete": False})
            return
        scores.append(evaluations[item["roles"]["student"]]["val"][config["objective"]])
        tune.report(
            {
                OBJECTIVE: sum(scores) / len(scores),
                "seed": item["seed"],
                "num_seeds": len(scores),
                "complete": len(scores) == len(seeds),
                **{
                    role: evaluations[key]["test"]["accuracy"]
                    for role, key in item["roles"].items()
                },
            }
        )


def _keys(item: dict[str, Any]) -> list[str]:
    return [*item["roles"].values(), *item["members"], *item["analyses"]]
