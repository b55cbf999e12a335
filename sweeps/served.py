"""Served models: up when the first stage needs them, shared, gone when nobody does.

`ServedModels` keeps them in one event loop: `want` says which models stages to come will need, so
that they start early; `lease` hands out clients while a stage runs and waits for what is still
starting. `ServeHost` is the Ray actor around it, which runs the stages of the `serve` lane as
coroutines beside each other.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from serving.backends.base import Backend
from serving.client import CompletionClient
from serving.models import Endpoint
from sweeps.resources import Execution
from sweeps.servable import Servable, servable, served_key
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, Outcome, failed, forward_progress, run_serve_stage
from w2s.stages.base import Stage

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0


@dataclass(slots=True)
class _Entry:
    """A model that is up or starting, with all adapters on its replicas."""

    served: Servable
    endpoint: "asyncio.Task[Endpoint]"
    clients: dict[str, CompletionClient] = field(default_factory=dict)
    """By the name that requests go to: that of the model or of an adapter."""
    users: int = 0
    """Stages that use it now."""
    idle_since: float = 0.0


class ServedModels:
    """The models that are up; one event loop, one process that deploys.

    Models start beside each other; models that share replicas start once.
    """

    def __init__(self, backend: Backend, execution: Execution) -> None:
        """Args: backend: brings models up. execution: placement, bounds of traffic, patience."""
        self._backend = backend
        self._execution = execution
        self._entries: dict[str, _Entry] = {}
        self._wanted: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Models that are up or starting; those behind a URL take no room and are not told."""
        return tuple(entry.served.model.name for entry in self._local())

    @property
    def taken(self) -> list[tuple[int, dict[str, float]]]:
        """For each model that is up or starting, its replicas at most and what each reserves."""
        placements = [self._execution.placement_of(entry.served.base) for entry in self._local()]
        return [(p.most_replicas, p.per_replica) for p in placements if p.per_replica]

    def want(self, models: Mapping[str, Servable]) -> None:
        """Start these models if they are not up; others may go when unused."""
        self._wanted = frozenset(served.model.name for served in models.values())
        for served in _together(models.values()):
            self._entry(served)

    @asynccontextmanager
    async def lease(
        self, models: Mapping[str, Servable]
    ) -> AsyncIterator[dict[str, CompletionClient]]:
        """Clients of models, which stay up inside the block.

        Raises:
            ServingError: a model does not start; the next lease tries again.
        """
        async with self.endpoints(models) as endpoints:
            clients = {}
            for key, endpoint in endpoints.items():
                entry = self._entries[models[key].model.name]
                if endpoint.model not in entry.clients:
                    backend = self._backend_of(entry.served)
                    client = backend.client(endpoint, self._execution.requests)
                    entry.clients[endpoint.model] = client
                clients[key] = entry.clients[endpoint.model]
            yield clients

    @asynccontextmanager
    async def endpoints(self, models: Mapping[str, Servable]) -> AsyncIterator[dict[str, Endpoint]]:
        """Where models can be reached, by key; they stay up inside the block.

        Raises:
            ServingError: a model does not start; the next attempt tries again.
        """
        entries = {served.model.name: self._entry(served) for served in _together(models.values())}
        for entry in entries.values():
            entry.users += 1
        try:
            for name, entry in entries.items():
                try:
                    await asyncio.shield(entry.endpoint)
                except Exception:
                    if self._entries.get(name) is entry:
                        del self._entries[name]
                    raise
            found = {}
            for key, served in models.items():
                endpoint = entries[served.model.name].endpoint.result()
                found[key] = endpoint.through(served.adapter) if served.adapter else endpoint
            yield found
        finally:
            for entry in entries.values():
                entry.users -= 1
                entry.idle_since = time.monotonic()

    async def remove_idle(self, idle_s: float) -> None:
        """Take down what nobody uses or wants and nobody used for a while."""
        now = time.monotonic()
        # The limits a minute of a model behind a URL live in its client.
        for entry in self._local():
            unused = not entry.users and entry.served.model.name not in self._wanted
            if unused and entry.endpoint.done() and now - entry.idle_since >= idle_s:
                await self._remove(entry)

    async def close(self) -> None:
        """Take everything down; what is still starting goes when it is up."""
        for entry in list(self._entries.values()):
            await self._remove(entry)

    async def _remove(self, entry: _Entry) -> None:
        name = entry.served.model.name
        del self._entries[name]
        try:
            endpoint = await entry.endpoint
            for client in entry.clients.values():
                await client.aclose()
            await asyncio.to_thread(self._backend_of(entry.served).remove, endpoint)
            log.info("model=%s removed", name)
        except (
            Exception
        ) as error:  # a model that did not start needs no removal; its stages said why
            log.warning("model=%s: %s", name, error)

    def _local(self) -> list[_Entry]:
        """The entries that take room on the cluster."""
        remote = self._execution.remote
        return [entry for entry in self._entries.values() if entry.served.base not in remote]

    def _entry(self, served: Servable) -> _Entry:
        name = served.model.name
        if name not in self._entries:
            task = asyncio.ensure_future(self._deploy(served))
            task.add_done_callback(_consume)
            self._entries[name] = _Entry(served, task, idle_since=time.monotonic())
        return self._entries[name]

    def _backend_of(self, served: Servable) -> Backend:
        return self._execution.remote.get(served.base, self._backend)

    async def _deploy(self, served: Servable) -> Endpoint:
        started = time.monotonic()
        placement = self._execution.placement_of(served.base)
        backend = self._backend_of(served)
        endpoint = await asyncio.to_thread(backend.deploy, served.model, placement)
        log.info("model=%s up after %.1f s", served.model.name, time.monotonic() - started)
        return endpoint


def _together(models: Iterable[Servable]) -> list[Servable]:
    """One of all that share replicas, with the adapters of all of them."""
    groups: dict[str, Servable] = {}
    for served in models:
        name = served.model.name
        before = groups[name].model.adapters if name in groups else ()
        names = {adapter.name for adapter in before}
        new = tuple(a for a in served.model.adapters if a.name not in names)
        model = served.model.model_copy(update={"adapters": before + new})
        groups[name] = replace(served, model=model)
    return list(groups.values())


def _consume(task: "asyncio.Task[Endpoint]") -> None:
    """Mark a failure as seen: it is raised where the model is leased, if anybody ever does."""
    if not task.cancelled():
        task.exception()


class ServeHost:
    """Runs stages of the `serve` lane; an actor of one event loop."""

    def __init__(self, broker: Any, execution: Execution) -> None:
        """Args: broker: gets progress. execution: store, backend and patience."""
        self._broker = broker
        self._execution = execution
        self._store = ArtifactStore(execution.store)
        backend = execution.backend
        if backend is None:
            from serving.backends.vllm import Vllm

            backend = Vllm()
        self.models = ServedModels(backend, execution)
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._keeper: asyncio.Task[None] | None = None

    async def run(self, stage: Stage) -> Outcome:
        """Run a stage once its models are up."""
        task = asyncio.ensure_future(self._run(stage))
        self._running[stage.key] = task
        try:
            return await task
        except asyncio.CancelledError:
            return Outcome(stage.key, cause="cancelled", cancelled=True)
        finally:
            del self._running[stage.key]

    async def cancel(self, key: str) -> None:
        """Stop a running stage; what it finished is kept for the next attempt."""
        if task := self._running.get(key):
            task.cancel()

    async def want(self, models: Sequence[Stage | BaseModel]) -> None:
        """Say which models stages to come will need."""
        if self._keeper is None:
            self._keeper = asyncio.ensure_future(self._keep())
        wanted = {}
        for model in models:
            try:
                wanted[served_key(model)] = await self._servable(model)
            except Exception as error:  # the stage that needs it will fail with this error
                log.warning("cannot serve %s: %s", model, error)
        self.models.want(wanted)

    async def state(self) -> tuple[tuple[str, ...], list[tuple[int, dict[str, float]]]]:
        """Models that are up or starting, and what they reserve; see `ServedModels`."""
        return self.models.names, self.models.taken

    async def make_room(self) -> None:
        """Remove unused models at once: training waits for what they hold."""
        await self.models.remove_idle(0.0)

    async def close(self) -> None:
        """Stop stages and take models down."""
        if self._keeper is not None:
            self._keeper.cancel()
        for task in self._running.values():
            task.cancel()
        await self.models.close()

    async def _run(self, stage: Stage) -> Outcome:
        try:
            models = {
                served_key(model): await self._servable(model) for model in stage.served_models
            }
            async with self.models.lease(models) as clients:
                conditions = Conditions(clients=clients)
                report = forward_progress(self._broker, stage.key)
                return await run_serve_stage(stage, self._store, conditions, report)
        except Exception as error:
            return failed(stage, error)

    async def _servable(self, model: Stage | BaseModel) -> Servable:
        """Look a model up in the store, which may have to be fetched first."""
        return await asyncio.to_thread(servable, model, self._store, self._execution.placement_of)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.models.remove_idle(self._execution.model_idle_s)
