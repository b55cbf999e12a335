"""Which stages this cluster runs, where another one may use the same store.

`Claims` stands between the broker's pools and their workers: a stage that was started on the board
runs once `take` has its lease (`sweeps.leases`). One whose artifact is there by now is finished at
once; one that another cluster runs goes back to the queue for a while. Leases are renewed and given
back by what the board says, so that no pool has to think of them.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from sweeps.board import Board
from sweeps.leases import EXPIRES_S, Lease
from sweeps.store import ArtifactStore
from w2s.errors import StoreError
from w2s.stages.base import Stage

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 3.0
"""Time after which a stage that another cluster runs is looked at again."""

Claim = Callable[[Sequence[Stage]], Awaitable[set[str]]]
"""Keys of those stages, which the board counts as running, that may run now; see `Claims.take`."""

Answer = Literal["mine", "theirs", "there"]
"""Who may run a stage, or that its artifact is there."""


class Claims:
    """The leases of a broker; all but `_ask` runs in its event loop."""

    def __init__(self, board: Board, store: ArtifactStore, owner: str) -> None:
        """Args: owner: name of the cluster, as others are told it."""
        self._board = board
        self._store = store
        self._owner = owner
        self._held: dict[str, Lease] = {}
        self._renewed = time.monotonic()

    async def take(self, stages: Sequence[Stage]) -> set[str]:
        """Keys of those stages that may run now.

        The others are finished, where their artifact is there, or planned again.
        """
        attempts = {stage.key: self._board.nodes[stage.key].attempts for stage in stages}
        leases = {stage.key: Lease(self._store, stage, self._owner) for stage in stages}
        answers = await asyncio.to_thread(self._ask, stages, leases)
        granted = set()
        for key, answer in answers.items():
            if answer == "mine":
                self._held[key] = leases[key]
                granted.add(key)
                continue
            node = self._board.nodes[key]
            if node.state != "running" or node.attempts != attempts[key]:
                continue  # who asked has gone, and the stage is on its way again
            if answer == "there":
                self._board.found(key)
            else:
                node.attempts -= 1
                holder = leases[key].holder or "another cluster"
                self._board.requeue(key, f"{holder} runs it", LOOK_AGAIN_S)
        return granted

    def _ask(self, stages: Sequence[Stage], leases: dict[str, Lease]) -> dict[str, Answer]:
        """In a thread."""
        answers: dict[str, Answer] = {}
        for stage in stages:
            lease = leases[stage.key]
            try:
                is_mine = lease.take()
                # Looked for last: a lease may be free because its holder is done.
                is_there = self._store.has(stage)
            except StoreError as error:
                # Leases save work and guard nothing: the stage itself will tell what is wrong.
                log.warning("key=%s runs without a lease: %s", stage.key, error)
                is_mine, is_there = True, False
            if is_there:
                lease.release(done=True)
            answers[stage.key] = "there" if is_there else "mine" if is_mine else "theirs"
        return answers

    async def keep(self) -> None:
        """Give back the leases of stages that run no more, and renew the others when it is time."""
        over: list[tuple[Lease, bool]] = []
        for key in list(self._held):
            state = self._board.nodes[key].state
            if state != "running":
                over.append((self._held.pop(key), state in ("done", "cached")))
        due = time.monotonic() - self._renewed > EXPIRES_S / 4
        if due:
            self._renewed = time.monotonic()
        held = dict(self._held) if due else {}
        if over or held:
            for key in await asyncio.to_thread(_kept, over, held):
                self._held.pop(key, None)

    async def give_back(self) -> None:
        """The broker ends: whoever wants the stages may have them."""
        over = [(lease, False) for lease in self._held.values()]
        self._held.clear()
        await asyncio.to_thread(_kept, over, {})


async def granted(stages: Sequence[Stage]) -> set[str]:
    """A `Claim` where no other cluster can be: every stage may run."""
    return {stage.key for stage in stages}


def _kept(over: list[tuple[Lease, bool]], held: dict[str, Lease]) -> list[str]:
    """In a thread: give back and renew; keys of leases that were lost."""
    for lease, done in over:
        lease.release(done)
    lost = []
    for key, lease in held.items():
        try:
            if not lease.renew():
                log.warning("key=%s runs on %s too: its lease had expired", key, lease.holder)
                lost.append(key)
        except StoreError as error:
            log.warning("%s", error)
    return lost
