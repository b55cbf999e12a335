import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from serving.backends.base import Backend
from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient, CompletionClient, RequestPolicy
from serving.errors import DeploymentFailed
from serving.models import Endpoint, Placement, ServedModel
from sweeps.resources import Execution, GangShape
from sweeps.served import ServedModels

EXECUTION = Execution(store="unused", shape=GangShape())
GATE = threading.Event()
CALLS: list[str] = []


class Recorder(Backend, frozen=True):
    """Writes down what it is asked for; a model named `broken` does not start."""

    kind: str = "recorder"

    def deploy_all(
        self, models: Sequence[ServedModel], placement: Placement
    ) -> dict[str, Endpoint]:
        GATE.wait(10)
        CALLS.extend(f"deploy {model.name}" for model in models)
        if any(model.name == "broken" for model in models):
            raise DeploymentFailed("broken does not start")
        return {
            model.name: Endpoint(model=model.name, digest=model.digest, base_url="", app="")
            for model in models
        }

    def client(self, endpoint: Endpoint, policy: RequestPolicy | None = None) -> CompletionClient:
        return BatchingClient(ScriptedTransport(("reply",)))

    def remove(self, endpoint: Endpoint) -> None:
        CALLS.append(f"remove {endpoint.model}")


@pytest.fixture(autouse=True)
def _clear() -> None:
    GATE.set()
    CALLS.clear()


def models(*names: str) -> dict[str, ServedModel]:
    return {f"key-{name}": ServedModel(name=name, path=name) for name in names}


def test_stages_that_name_one_model_share_it_and_it_goes_when_unused() -> None:
    async def script() -> None:
        served = ServedModels(Recorder(), EXECUTION)
        async with served.lease(models("m")) as first, served.lease(models("m")) as second:
            assert first["key-m"] is second["key-m"]
            await served.remove_idle(0.0)
            assert served.names == ("m",)
        await served.remove_idle(100.0)
        assert served.names == ("m",)
        await served.remove_idle(0.0)
        assert served.names == ()

    asyncio.run(script())
    assert CALLS == ["deploy m", "remove m"]


def test_wanted_model_starts_before_anybody_leases_it_and_stays() -> None:
    async def script() -> None:
        served = ServedModels(Recorder(), EXECUTION)
        served.want(models("m"))
        while not CALLS:
            await asyncio.sleep(0.01)
        await served.remove_idle(0.0)
        assert served.names == ("m",)
        served.want({})
        await served.remove_idle(0.0)
        assert served.names == ()

    asyncio.run(script())


def test_model_that_does_not_start_fails_its_stage_and_is_tried_again_by_the_next() -> None:
    async def script() -> None:
        served = ServedModels(Recorder(), EXECUTION)
        for _ in range(2):
            with pytest.raises(DeploymentFailed, match="broken does not start"):
                async with served.lease(models("good", "broken")):
                    raise AssertionError("not reached")
        assert served.names == ("good",)
        await served.close()

    asyncio.run(script())
    assert CALLS == ["deploy good", "deploy broken", "deploy broken", "remove good"]


def test_close_takes_down_a_model_that_is_still_starting() -> None:
    GATE.clear()

    async def script() -> None:
        served = ServedModels(Recorder(), EXECUTION)
        served.want(models("m"))
        closing = asyncio.ensure_future(served.close())
        await asyncio.sleep(0.01)
        GATE.set()
        await closing

    asyncio.run(script())
    assert CALLS == ["deploy m", "remove m"]


def test_a_model_behind_a_url_is_served_by_its_own_backend_takes_no_room_and_stays() -> None:
    class Elsewhere(Recorder, frozen=True):
        def deploy_all(
            self, models: Sequence[ServedModel], placement: Placement
        ) -> dict[str, Endpoint]:
            CALLS.append("elsewhere")
            return super().deploy_all(models, placement)

    async def script() -> None:
        execution = replace(EXECUTION, remote={"key-far": Elsewhere()})
        served = ServedModels(Recorder(), execution)
        async with served.lease(models("near", "far")) as clients:
            assert served.names == ("near",)
            far = clients["key-far"]
        await served.remove_idle(0.0)
        async with served.lease(models("far")) as clients:
            assert clients["key-far"] is far
        await served.close()

    asyncio.run(script())
    assert CALLS == ["deploy near", "elsewhere", "deploy far", "remove near", "remove far"]
