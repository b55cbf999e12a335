"""The stages of the `serve` lane and the models they need, in the broker's event loop.

`ServePool` is to served models what `GangPool` is to gangs: it says to the `ServeHost` which models
to bring up and take down, and gives it the stages whose models are up.
"""

import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import ray
from ray.exceptions import RayActorError, RayTaskError

from sweeps.board import Board, Node
from sweeps.resources import Execution, Resources
from sweeps.servable import served_key
from sweeps.served import ServeHost
from sweeps.worker import Outcome
from w2s.stages.base import Stage


class ServePool:
    """The served models of a broker; every method runs in the broker's event loop."""

    def __init__(
        self,
        board: Board,
        execution: Execution,
        broker: Any,
        *,
        on_change: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        settle: Callable[[Outcome], None],
        lost: Callable[[Node, RayActorError], None],
    ) -> None:
        """Start with no model.

        Args:
            board: where stages come from.
            execution: how they run.
            broker: handle that gets progress.
            on_change: called after any change that may make work possible elsewhere.
            spawn: runs a coroutine whose errors are the broker's own.
            settle: takes what came of a stage.
            lost: takes a stage whose process died.
        """
        self.names: tuple[str, ...] = ()
        """Models that are up or starting."""
        self.taken: list[tuple[int, Resources]] = []
        """(count, resources) of what the models reserve."""
        self._board = board
        self._execution = execution
        self._broker = broker
        self._on_change = on_change
        self._spawn = spawn
        self._settle = settle
        self._lost = lost
        self._host: Any = None
        self._serving: set[str] = set()
        self._wanted: frozenset[str] = frozenset()

    def schedule(self, nodes: Sequence[Resources], gangs: Sequence[tuple[int, Resources]]) -> None:
        """Bring models up and give stages to those that are.

        Args:
            nodes: total resources of each node of the cluster.
            gangs: (count, resources) of what gangs take of them.
        """
        planned = list(self._board.planned("serve"))
        running = [self._board.nodes[key] for key in self._serving]
        # Models whose weights are there start now, while other inputs of their stages are made.
        models = {
            served_key(model): model
            for node in [*planned, *running]
            for model in node.stage.served_models
            if not isinstance(model, Stage) or self._is_there(model)
        }
        if (models or planned) and self._host is None:
            host = cast(Any, ray).remote(num_cpus=0, max_concurrency=1000)(ServeHost)
            self._host = host.remote(self._broker, self._execution)
        if self._host is not None and self._wanted != frozenset(models):
            self._wanted = frozenset(models)
            self._host.want.remote(list(models.values()))
        for node in self._board.ready("serve"):
            if len(self._serving) >= self._execution.max_serve_stages:
                return
            self._board.start(node.stage.key)
            self._serving.add(node.stage.key)
            self._spawn(self._run(node))

    def make_room(self) -> None:
        """Training waits for resources: remove what nobody uses."""
        if self._host is not None:
            self._host.make_room.remote()

    def cancel(self, key: str) -> None:
        """Nobody awaits a running stage any more; stages of other lanes are left alone."""
        if key in self._serving and self._host is not None:
            self._host.cancel.remote(key)

    async def look(self) -> None:
        """Ask what is up; called about once a second."""
        if self._host is not None:
            with contextlib.suppress(RayActorError):
                self.names, self.taken = await self._host.state.remote()

    async def close(self) -> None:
        """Stop stages and take models down."""
        if self._host is not None:
            with contextlib.suppress(RayActorError, RayTaskError):
                await self._host.close.remote()

    async def _run(self, node: Node) -> None:
        assert self._host is not None
        try:
            outcome = await self._host.run.remote(node.stage)
        except RayActorError as error:
            self._host, self._wanted = None, frozenset()
            self._lost(node, error)
        except RayTaskError as error:  # the stage could not even be unpickled
            self._board.fail(node.stage.key, str(error.cause), str(error))
        else:
            self._settle(outcome)
        self._serving.discard(node.stage.key)
        self._on_change()

    def _is_there(self, stage: Stage) -> bool:
        node = self._board.nodes.get(stage.key)
        return node is not None and node.state in ("cached", "done")
