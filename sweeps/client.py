"""How the driver and the trials talk to the stage broker; loads Ray and nothing of the science."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from sweeps.events import BrokerSnapshot, StageEvent
from w2s.errors import StageFailed, UserError
from w2s.stages.base import Stage


class BrokerClient:
    """A caller's end of the broker: the driver's, or a trial's.

    Requests live as long as their caller shows signs of life: each call is one, for all of them.
    """

    def __init__(self, broker: Any) -> None:
        """Args: broker: handle from `start_broker`; it pickles, a client does not."""
        self._broker: Any = broker
        self._caller = f"{ray.get_runtime_context().get_worker_id()}-{id(self)}"
        self._asked: dict[int, list[Stage | str]] = {}

    def register(self, stages: Sequence[Stage]) -> None:
        """Make stages known, so that other callers can ask for them by key."""
        ray.get(self._broker.register.remote(list(stages)))

    def ask(self, stages: Sequence[Stage | str]) -> int:
        """Ask for stages, or keys of registered ones; returns the number of the request at once.

        Raises:
            UserError: the cluster can never run one of them.
        """
        try:
            number: Any = ray.get(self._broker.ask.remote(self._caller, list(stages)))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
        self._asked[number] = list(stages)
        return number

    def wait(self, number: int) -> None:
        """Wait until everything that was asked for is in the store.

        Raises:
            StageFailed: a stage failed; the request is over.
        """
        current = number
        try:
            while True:
                try:
                    if ray.get(self._broker.wait.remote(self._caller, current)):
                        return
                except RayTaskError as error:
                    if isinstance(error.cause, StageFailed):
                        raise error.cause from None
                    if not isinstance(error.cause, KeyError):
                        raise
                    # The broker took this process for dead while it was only slow: ask again.
                    current = ray.get(self._broker.ask.remote(self._caller, self._asked[number]))
        except BaseException:
            self._broker.release.remote(current)
            raise

    def request(self, stages: Sequence[Stage | str]) -> None:
        """Ask for stages and wait for them; see `wait`."""
        self.wait(self.ask(stages))

    def read_json(self, keys: Sequence[str], file: str) -> dict[str, Any]:
        """A JSON file of stages that were asked for and are done, by key."""
        found = ray.get([self._broker.read_json.remote(key, file) for key in keys])
        return dict(zip(keys, found, strict=True))

    def release(self, number: int) -> None:
        """Give a request up."""
        ray.get(self._broker.release.remote(number))

    def snapshot(self) -> BrokerSnapshot:
        """The state of everything now."""
        return ray.get(self._broker.snapshot.remote(self._caller))

    def events(self, after: int = 0) -> list[StageEvent]:
        """What ended, from the log's entry number `after` on."""
        return ray.get(self._broker.events.remote(self._caller, after))
