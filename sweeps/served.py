"""Served models: brought up once, shared by all that name them, taken down when told.

`ServedModels` keeps them in one event loop: it hands out clients or endpoints, and waits for what
is still starting. `ServeHost` is the Ray actor around it: the broker (`sweeps.serve_pool`) tells it
which models to bring up and take down, and which stages of the `serve` lane to run, as coroutines
beside each other.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from serving.backends.base import Backend
from serving.client import CompletionClient
from serving.errors import DeploymentFailed
from serving.models import Endpoint
from sweeps.resources import Execution
from sweeps.servable import Servable, servable, served_key
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, Outcome, failed, forward_progress, run_serve_stage
from w2s.stages.base import Stage

log = logging.getLogger(__name__)

START_GRACE_S = 30.0
"""A backend that watches its own time is done by then."""


@dataclass(slots=True)
class _Entry:
    """A model that is up or starting, with all adapters on its replicas."""

    served: Servable
    endpoint: "asyncio.Task[Endpoint]"
    clients: dict[str, CompletionClient] = field(default_factory=dict)
    """By the name that requests go to: that of the model or of an adapter."""
    is_doubted: bool = False
    """A request to it failed, so it may be gone."""


class ServedModels:
    """The models that are up; one event loop, one process that deploys.

    Models start beside each other; models that share replicas start once.
    """

    def __init__(
        self, backend: Backend, execution: Execution, grace_s: float = START_GRACE_S
    ) -> None:
        """Start with no model.

        Args:
            backend: brings models up.
            execution: placement and bounds of traffic.
            grace_s: seconds beyond a placement's own after which a start that hangs has failed.
        """
        self._backend = backend
        self._grace_s = grace_s
        self._execution = execution
        self._entries: dict[str, _Entry] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Models that are up or starting."""
        return tuple(self._entries)

    async def bring_up(self, served: Servable) -> None:
        """Return when a model is up.

        Raises:
            ServingError: it does not start; the next attempt tries again.
        """
        async with self.endpoints({served.name: served}):
            pass

    async def take_down(self, name: str) -> None:
        """Remove a model that nobody uses, once it is up if it is starting; not there: nothing."""
        if entry := self._entries.get(name):
            await self._remove(entry)

    def doubt(self, models: Mapping[str, Servable]) -> None:
        """A request to one of these failed for good: whether they are up is asked again."""
        for served in models.values():
            name = served.model.name
            entry = self._entries.get(name)
            if entry is not None and entry.served.base not in self._execution.remote:
                entry.is_doubted = True

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

    def _entry(self, served: Servable) -> _Entry:
        name = served.model.name
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(served, self._deployment(served))
        elif entry.is_doubted and entry.endpoint.done():
            # To deploy what is up does nothing.
            entry.endpoint, entry.is_doubted = self._deployment(entry.served), False
        return entry

    def _deployment(self, served: Servable) -> "asyncio.Task[Endpoint]":
        task = asyncio.ensure_future(self._deploy(served))
        task.add_done_callback(_consume)
        return task

    def _backend_of(self, served: Servable) -> Backend:
        return self._execution.remote.get(served.base, self._backend)

    async def _deploy(self, served: Servable) -> Endpoint:
        started = time.monotonic()
        placement = self._execution.placement_of(served.base)
        backend = self._backend_of(served)
        deployed = asyncio.ensure_future(asyncio.to_thread(backend.deploy, served.model, placement))
        patience_s = placement.start_timeout_s + self._grace_s
        try:
            endpoint = await asyncio.wait_for(asyncio.shield(deployed), patience_s)
        except TimeoutError as error:
            deployed.add_done_callback(lambda done: self._remove_late(backend, done))
            raise DeploymentFailed(
                f"model {served.model.name!r} is not up after {patience_s:g} s, and its start "
                "cannot be stopped; it is removed as soon as it answers"
            ) from error
        log.info("model=%s up after %.1f s", served.model.name, time.monotonic() - started)
        return endpoint

    @staticmethod
    def _remove_late(backend: Backend, deployed: "asyncio.Future[Endpoint]") -> None:
        """A model that nobody waits for any more came up after all."""
        if not deployed.cancelled() and deployed.exception() is None:
            asyncio.get_running_loop().run_in_executor(None, backend.remove, deployed.result())


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
    """Serves models and runs stages of the `serve` lane; an actor of one event loop."""

    def __init__(self, broker: Any, owner: str) -> None:
        """Args: broker: gets progress. owner: of the models; see `Backend.clear`."""
        self._broker = broker
        self._owner = owner
        self._desks: list[_Desk] = []
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._names: dict[str, str] = {}
        """By key of the model, what its replicas are called."""

    async def run(self, stage: Stage, execution: Execution) -> Outcome:
        """Run a stage whose models are up."""
        task = asyncio.ensure_future(self._run(stage, execution))
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

    async def bring_up(self, model: Stage | BaseModel, execution: Execution) -> None:
        """Return when a model is up.

        Raises:
            ServingError: it does not start.
            StoreError: its weights are missing or damaged.
        """
        key = served_key(model)
        task = asyncio.ensure_future(self._bring_up(model, execution))
        self._starting[key] = task
        try:
            await task
        finally:
            del self._starting[key]

    async def take_down(self, key: str) -> None:
        """Return when a model is gone; one that is starting comes up first."""
        if task := self._starting.get(key):
            await asyncio.wait([task])
        if name := self._names.pop(key, None):
            for desk in self._desks:
                await desk.models.take_down(name)

    async def close(self) -> None:
        """Stop stages and take models down."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*(desk.models.close() for desk in self._desks))

    async def _bring_up(self, model: Stage | BaseModel, execution: Execution) -> None:
        desk = await self._desk(execution)
        served = await desk.servable(model)
        self._names[served_key(model)] = served.model.name
        await desk.models.bring_up(served)

    async def _run(self, stage: Stage, execution: Execution) -> Outcome:
        try:
            desk = await self._desk(execution)
            models = {
                served_key(model): await desk.servable(model) for model in stage.served_models
            }
            async with desk.models.lease(models) as clients:
                conditions = Conditions(clients=clients, timeout_s=execution.stage_timeout_s)
                report = forward_progress(self._broker, stage.key)
                outcome = await run_serve_stage(stage, desk.store, conditions, report)
            if outcome.record is None:
                desk.models.doubt(models)
            return outcome
        except Exception as error:
            return failed(stage, error)

    async def _desk(self, execution: Execution) -> "_Desk":
        desk = next((desk for desk in self._desks if desk.execution == execution), None)
        if desk is None:
            backend = execution.backend or _vllm(self._owner)
            like = next((desk for desk in self._desks if desk.backend == backend), None)
            clearing = like.clearing if like else asyncio.to_thread(backend.clear)
            desk = _Desk(execution, backend, asyncio.ensure_future(clearing))
            self._desks.append(desk)
        await asyncio.shield(desk.clearing)
        return desk


class _Desk:
    """What the stages of one execution have in common."""

    def __init__(
        self, execution: Execution, backend: Backend, clearing: "asyncio.Future[None]"
    ) -> None:
        self.execution = execution
        self.backend = backend
        self.clearing = clearing
        """Done when nothing is left of what a dead host of the same owner had brought up."""
        self.store = ArtifactStore(execution.store)
        self.models = ServedModels(backend, execution)

    async def servable(self, model: Stage | BaseModel) -> Servable:
        """Look a model up in the store, which may have to be fetched first."""
        placement_of = self.execution.placement_of
        return await asyncio.to_thread(servable, model, self.store, placement_of)


def _vllm(owner: str) -> Backend:
    from serving.backends.vllm import Vllm

    return Vllm(owner=owner)
