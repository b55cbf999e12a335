"""Served models: up when the first stage needs them, shared, gone when nobody does.

`ServedModels` keeps them in one event loop: `want` says which models stages to come will need, so
that they start early; `lease` hands out clients while a stage runs and waits for what is still
starting. `ServeHost` is the Ray actor around it, which runs the stages of the `serve` lane as
coroutines beside each other.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from serving.backends.base import Backend
from serving.client import CompletionClient
from serving.models import Endpoint, ServedModel
from sweeps.resources import Execution
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, Outcome, failed, forward_progress, run_serve_stage
from w2s.models.remote import RemoteModel
from w2s.models.source import PretrainedModel
from w2s.spec import digest
from w2s.stages.base import Stage
from w2s.stages.models import MODEL_FOLDER

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0


def served_key(model: Stage | BaseModel) -> str:
    """Key under which a stage finds the client of a model."""
    return model.key if isinstance(model, Stage) else digest(model)


def served_model(model: Stage | BaseModel, store: ArtifactStore) -> ServedModel:
    """What the serving layer is told about a model of the store, or one from outside.

    Raises:
        StoreError: the rung's artifact is missing or damaged.
    """
    key = served_key(model)
    if isinstance(model, RemoteModel):
        return _named(model.name, key, path=model.model)
    if isinstance(model, Stage):
        return _named(model.name, key, path=str(store.local(model) / MODEL_FOLDER))
    assert isinstance(model, PretrainedModel), f"cannot serve {model!r}"
    return _named(model.name, key, path=model.path, revision=model.revision)


def _named(name: str, key: str, path: str, revision: str | None = None) -> ServedModel:
    words = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
    return ServedModel(name=f"{words}-{key[:8]}", path=path, digest=key, revision=revision)


@dataclass(slots=True)
class _Entry:
    """A model that is up or starting."""

    model: ServedModel
    endpoint: "asyncio.Task[Endpoint]"
    client: CompletionClient | None = None
    users: int = 0
    """Stages that use it now."""
    idle_since: float = 0.0


class ServedModels:
    """The models that are up; one event loop, one process that deploys."""

    def __init__(self, backend: Backend, execution: Execution) -> None:
        """Args: backend: brings models up. execution: placement, bounds of traffic, patience."""
        self._backend = backend
        self._execution = execution
        self._entries: dict[str, _Entry] = {}
        self._wanted: frozenset[str] = frozenset()
        # Backends are asked for one thing at a time; a model that starts does not block the loop.
        self._turn = asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Models that are up or starting; those behind a URL take no room and are not told."""
        return tuple(
            entry.model.name
            for key, entry in self._entries.items()
            if key not in self._execution.remote
        )

    def want(self, models: Mapping[str, ServedModel]) -> None:
        """Start these models if they are not up; others may go when unused."""
        self._wanted = frozenset(models)
        for key, model in models.items():
            self._entry(key, model)

    @asynccontextmanager
    async def lease(
        self, models: Mapping[str, ServedModel]
    ) -> AsyncIterator[dict[str, CompletionClient]]:
        """Clients of models, which stay up inside the block.

        Raises:
            ServingError: a model does not start; the next lease tries again.
        """
        entries = {key: self._entry(key, model) for key, model in models.items()}
        for entry in entries.values():
            entry.users += 1
        try:
            clients = {}
            for key, entry in entries.items():
                try:
                    endpoint = await asyncio.shield(entry.endpoint)
                except Exception:
                    if self._entries.get(key) is entry:
                        del self._entries[key]
                    raise
                if entry.client is None:
                    entry.client = self._backend_of(key).client(endpoint, self._execution.requests)
                clients[key] = entry.client
            yield clients
        finally:
            for entry in entries.values():
                entry.users -= 1
                entry.idle_since = time.monotonic()

    async def remove_idle(self, idle_s: float) -> None:
        """Take down what nobody uses or wants and nobody used for a while."""
        now = time.monotonic()
        for key, entry in list(self._entries.items()):
            unused = not entry.users and key not in self._wanted and entry.endpoint.done()
            # The limits a minute of a model behind a URL live in its client.
            if unused and key not in self._execution.remote and now - entry.idle_since >= idle_s:
                await self._remove(key, entry)

    async def close(self) -> None:
        """Take everything down; what is still starting goes when it is up."""
        for key, entry in list(self._entries.items()):
            await self._remove(key, entry)

    async def _remove(self, key: str, entry: _Entry) -> None:
        del self._entries[key]
        try:
            endpoint = await entry.endpoint
            if entry.client is not None:
                await entry.client.aclose()
            async with self._turn:
                await asyncio.to_thread(self._backend_of(key).remove, endpoint)
            log.info("model=%s removed", entry.model.name)
        except (
            Exception
        ) as error:  # a model that did not start needs no removal; its stages said why
            log.warning("model=%s: %s", entry.model.name, error)

    def _entry(self, key: str, model: ServedModel) -> _Entry:
        if key not in self._entries:
            task = asyncio.ensure_future(self._deploy(key, model))
            task.add_done_callback(_consume)
            self._entries[key] = _Entry(model, task, idle_since=time.monotonic())
        return self._entries[key]

    def _backend_of(self, key: str) -> Backend:
        return self._execution.remote.get(key, self._backend)

    async def _deploy(self, key: str, model: ServedModel) -> Endpoint:
        started = time.monotonic()
        async with self._turn:
            endpoint = await asyncio.to_thread(
                self._backend_of(key).deploy, model, self._execution.placement
            )
        log.info("model=%s up after %.1f s", model.name, time.monotonic() - started)
        return endpoint


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
                wanted[served_key(model)] = await asyncio.to_thread(
                    served_model, model, self._store
                )
            except Exception as error:  # the stage that needs it will fail with this error
                log.warning("cannot serve %s: %s", model, error)
        self.models.want(wanted)

    async def names(self) -> tuple[str, ...]:
        """Models that are up or starting."""
        return self.models.names

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
                served_key(model): await asyncio.to_thread(served_model, model, self._store)
                for model in stage.served_models
            }
            async with self.models.lease(models) as clients:
                conditions = Conditions(clients=clients)
                report = forward_progress(self._broker, stage.key)
                return await run_serve_stage(stage, self._store, conditions, report)
        except Exception as error:
            return failed(stage, error)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.models.remove_idle(self._execution.model_idle_s)
