"""What becomes of a stage whose attempt is over: done, tried again, or failed for good.

One `Settling` serves all lanes. An error that may go away, and a process that died, are tried again
as often as the stage's execution allows, after pauses that grow; every other error fails the stage
at once. A damaged input is moved aside and made again, and the stage that found it waits for it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from sweeps.board import Board
from sweeps.failures import death_of, is_preempted, pause_s
from sweeps.nodes import Node
from sweeps.store import ArtifactStore
from sweeps.worker import Outcome
from w2s.stages.base import closure

log = logging.getLogger(__name__)


class Settling:
    """Writes the ends of attempts to the board; every method runs in the broker's event loop."""

    def __init__(
        self,
        board: Board,
        store: ArtifactStore,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        on_change: Callable[[], None],
    ) -> None:
        """Args: spawn: runs a coroutine whose errors are the broker's own."""
        self._board = board
        self._store = store
        self._spawn = spawn
        self._on_change = on_change

    def settle(self, outcome: Outcome) -> None:
        """Take what came of an attempt."""
        key = outcome.key
        node = self._board.nodes[key]
        if outcome.record is not None:
            self._board.finish(key, outcome.record)
        elif outcome.cancelled:
            self._board.requeue(key)
        elif (outcome.retry or outcome.damaged) and node.attempts <= node.execution.retries:
            if outcome.damaged:
                self._spawn(self._replace(outcome))
            else:
                self._again(node, outcome.cause)
        else:
            self._board.fail(key, _after(node, outcome.cause), outcome.traceback)

    def lost(self, node: Node, error: BaseException) -> None:
        """Take a stage whose process died, and what Ray says about that."""
        if is_preempted(error):
            node.attempts -= 1
            self._again(node, "its machine was taken back")
        elif node.attempts <= node.execution.retries:
            self._again(node, death_of(error))
        else:
            self._board.fail(node.stage.key, _after(node, f"WorkerDied: {death_of(error)}"))

    def _again(self, node: Node, cause: str) -> None:
        delay_s = pause_s(max(1, node.attempts))
        log.warning(
            "stage=%s key=%s is tried again in %.0f s: %s",
            node.stage.name,
            node.stage.key,
            delay_s,
            cause,
        )
        self._board.requeue(node.stage.key, cause, delay_s)

    async def _replace(self, outcome: Outcome) -> None:
        log.warning("key=%s is damaged and made again", outcome.damaged)
        await asyncio.to_thread(self._store.set_aside, outcome.damaged)
        damaged = self._board.nodes.get(outcome.damaged)
        if damaged is not None:
            below = list(closure(damaged.stage.inputs).values())
            self._board.forget(outcome.damaged, await asyncio.to_thread(self._store.present, below))
        self._board.requeue(outcome.key, outcome.cause)
        self._on_change()


def _after(node: Node, cause: str) -> str:
    """The cause of a failure for good, with the number of attempts where there were several."""
    return cause if node.attempts <= 1 else f"{cause} (attempt {node.attempts}, the last one)"
