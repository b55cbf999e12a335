"""The stages of the `light` lane and the processes that run them, in the broker's event loop.

`LightPool` gives stages to a few processes (`sweeps.light_worker`). Short ones go to a process in
batches, because a call through Ray costs more than many of them: as many as take about `BATCH_S`
together, by what stages of their kind took before. A stage that was started before goes alone: it
may be the one that kills its process.
"""

import math
from collections.abc import Callable, Coroutine
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayTaskError

from sweeps.board import Board
from sweeps.claims import Claim
from sweeps.light_worker import LightWorker
from sweeps.nodes import Node
from sweeps.worker import Outcome

BATCH_S = 0.25
"""Seconds that the stages of a batch should take together."""
STAGE_OVERHEAD_S = 0.002
"""Seconds that a stage takes beside its own work."""
MAX_BATCH = 64
"""Stages of a batch at most."""


class LightPool:
    """The processes for light stages of a broker; every method runs in its event loop."""

    def __init__(
        self,
        board: Board,
        store: str,
        broker: Any,
        *,
        max_workers: int,
        on_change: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        claim: Claim,
        settle: Callable[[Outcome], None],
        lost: Callable[[Node, BaseException], None],
    ) -> None:
        """Start with no process.

        Args:
            board: where stages come from.
            store: folder or URL of the artifacts.
            broker: handle that gets progress.
            max_workers: processes at most.
            on_change: called after any change that may make work possible elsewhere.
            spawn: runs a coroutine whose errors are the broker's own.
            claim: asked before a stage runs.
            settle: takes what came of a stage.
            lost: takes a stage whose process died.
        """
        self._board = board
        self._store = store
        self._broker = broker
        self._max_workers = max_workers
        self._on_change = on_change
        self._spawn = spawn
        self._claim = claim
        self._settle = settle
        self._lost = lost
        self._free: list[Any] = []
        self._count = 0

    def allow(self, max_workers: int) -> None:
        """Use so many processes at most, or more where somebody else allowed more."""
        self._max_workers = max(self._max_workers, max_workers)

    def schedule(self) -> None:
        """Give what is ready to free processes."""
        while self._board.num_ready("light"):
            if not self._free:
                if self._count >= self._max_workers:
                    return
                self._count += 1
                self._free.append(self._new_worker())
            self._spawn(self._run(self._batch(), self._free.pop()))

    def _batch(self) -> list[Node]:
        """The most urgent stages, started: one, or some short ones that run in the same way."""
        share = math.ceil(self._board.num_ready("light") / self._max_workers)
        batch: list[Node] = []
        left_s = BATCH_S
        while len(batch) < min(share, MAX_BATCH):
            node = self._board.best("light")
            if node is None:
                break
            seconds = self._board.seconds_per_stage(node.stage.kind)
            goes_alone = seconds is None or node.attempts > 0
            left_s -= BATCH_S if seconds is None else seconds + STAGE_OVERHEAD_S
            if batch and (goes_alone or left_s < 0 or node.execution is not batch[0].execution):
                break
            self._board.start(node.stage.key)
            batch.append(node)
            if goes_alone:
                break
        return batch

    def _new_worker(self) -> Any:
        return cast(Any, ray).remote(num_cpus=0)(LightWorker).remote(self._broker, self._store)

    async def _run(self, batch: list[Node], worker: Any) -> None:
        claimed = await self._claim([node.stage for node in batch])
        batch = [node for node in batch if node.stage.key in claimed]
        if batch:
            worker = await self._ran(batch, worker)
        self._free.append(worker)
        self._on_change()

    async def _ran(self, batch: list[Node], worker: Any) -> Any:
        """Run stages to their ends; returns the worker, or the one that takes its place."""
        stages = [node.stage for node in batch]
        try:
            outcomes = await worker.run.remote(stages, batch[0].execution.stage_timeout_s)
        except RayActorError as error:
            worker = self._new_worker()
            if not self._parted(batch):
                self._lost(batch[0], error)
        except RayTaskError as error:  # a stage could not even be unpickled
            if not self._parted(batch):
                self._board.fail(stages[0].key, str(error.cause), str(error))
        else:
            for outcome in outcomes:
                self._settle(outcome)
        return worker

    def _parted(self, batch: list[Node]) -> bool:
        """Put several stages back, one of which was at fault; which one shows when they go alone.

        Returns:
            False: there is but one.
        """
        if len(batch) == 1:
            return False
        for node in batch:
            self._board.requeue(node.stage.key)
        return True
