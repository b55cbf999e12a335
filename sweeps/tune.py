"""Ray Tune around the broker: one light trial a point, our searcher, an optional scheduler.

Trials take no CPU: what the cluster holds is shared out by the broker. Tune's own state is thrown
    away: the store and the study journals are the truth.
"""

import logging
import os
import tempfile
from typing import Any

from sweeps.book import TrialBook
from sweeps.client import BrokerClient
from sweeps.config import Sweep
from sweeps.search import SweepSearcher
from sweeps.trial import OBJECTIVE

log = logging.getLogger(__name__)

MAX_TRIAL_DEATHS = 5
"""Deaths of a trial's process after which its point counts as failed."""


def run_trials(
    sweep: Sweep,
    searcher: SweepSearcher,
    book: TrialBook,
    broker: BrokerClient,
    max_concurrent: int,
) -> None:
    """Run every point of the sweep as a Tune trial; returns when all have ended.

    Args:
        sweep: names the scheduler.
        searcher: hands out the points.
        book: follows the trials.
        broker: the driver's end of the stage broker.
        max_concurrent: trials at the same time.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # A failed trial reports its cause and no objective.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    # Signals are the command's business: it ends Tune, gangs and served models together.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # A byte of memory: Tune refuses a trial that asks for nothing.
    from ray import tune

    from sweeps.trial import run_trial

    logging.getLogger("ray.tune.execution.tune_controller").addFilter(_without_traceback)
    with tempfile.TemporaryDirectory(prefix="w2s-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, broker=broker.name, driver=broker.driver),
                {"cpu": 0, "memory": 1},
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=_scheduler(sweep),
                num_samples=-1,
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.config["trial"],
                trial_dirname_creator=lambda trial: trial.config["trial"],
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=folder,
                verbose=0,
                callbacks=[_follower(book)],
                log_to_file=False,
                # A trial whose process died begins again; what it waits for goes on meanwhile.
                failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_DEATHS),
            ),
        )
        tuner.fit()


def _without_traceback(record: logging.LogRecord) -> bool:
    """A trial that dies is begun again, or its point says why it failed: one line will do."""
    record.exc_info = None
    return True


def _scheduler(sweep: Sweep) -> Any:
    from ray.tune import schedulers

    if sweep.scheduler == "median":
        return schedulers.MedianStoppingRule(
            time_attr="num_seeds",
            metric=OBJECTIVE,
            mode="max",
            grace_period=1,
            min_samples_required=3,
        )
    if sweep.scheduler == "asha":
        return schedulers.AsyncHyperBandScheduler(
            time_attr="num_seeds",
            metric=OBJECTIVE,
            mode="max",
            grace_period=1,
            max_t=len(sweep.seeds),
        )
    return None


def _follower(book: TrialBook) -> Any:
    """A Tune callback that writes reports and ends into the book."""
    from ray.tune import Callback

    class Follow(Callback):
        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            book.note(trial.config["trial"], result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            book.end(trial.config["trial"])

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            log.error("trial %s failed: %s", trial.config["name"], trial.error_file)
            book.end(trial.config["trial"], cause="the trial process failed; see the Ray logs")

        def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
            # Tune pickles its callbacks to resume them; a resumed sweep has a new book.
            return Callback, ()

    return Follow()
