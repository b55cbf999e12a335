import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from serving.backends.base import Backend
from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient, CompletionClient, RequestPolicy
from serving.errors import DeploymentFailed
from serving.models import Adapter, Endpoint, Placement, ServedModel
from sweeps.resources import Execution, GangShape
from sweeps.servable import Servable
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


def models(*names: str) -> dict[str, Servable]:
    return {f"key-{n}": Servable(ServedModel(name=n, path=n), f"key-{n}") for n in names}


def teachers(*names: str) -> dict[str, Servable]:
    """Classifiers through adapters of one base."""
    found = {}
    for name in names:
        adapter = Adapter(name=name, path=name)
        shared = ServedModel(name="shared", path="base", task="classify", adapters=(adapter,))
        found[f"key-{name}"] = Servable(shared, "key-base", adapter)
    return found


def test_stages_that_name_one_model_share_it_until_it_is_taken_down() -> None:
    async def script() -> None:
        served = ServedModels(Recorder(), EXECUTION)
        await served.bring_up(models("m")["key-m"])
        async with served.lease(models("m")) as first, served.lease(models("m")) as second:
            assert first["key-m"] is second["key-m"]
        assert served.names == ("m",)
        await served.take_down("m")
        assert served.names == ()
        await served.take_down("m")

    asyncio.run(script())
    assert CALLS == ["deploy m", "remove m"]


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
    assert sorted(CALLS) == ["deploy broken", "deploy broken", "deploy good", "remove good"]


def test_close_takes_down_a_model_that_is_still_starting() -> None:
    GATE.clear()

    async def script() -> None:
        served = ServedModels(Recorder(), EXECUTION)
        starting = asyncio.ensure_future(served.bring_up(models("m")["key-m"]))
        await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(served.close())
        await asyncio.sleep(0.01)
        GATE.set()
        await closing
        await starting

    asyncio.run(script())
    assert CALLS == ["deploy m", "remove m"]


def test_a_model_behind_a_url_is_served_by_its_own_backend_and_keeps_its_client() -> None:
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
            far = clients["key-far"]
        await served.take_down("near")
        async with served.lease(models("far")) as clients:
            assert clients["key-far"] is far
        await served.close()

    asyncio.run(script())
    assert sorted(CALLS[:3]) == ["deploy far", "deploy near", "elsewhere"]
    assert CALLS[3:] == ["remove near", "remove far"]


def test_a_start_that_hangs_fails_with_its_cause_and_is_removed_when_it_answers() -> None:
    GATE.clear()
    execution = replace(EXECUTION, placement=Placement(start_timeout_s=0.05))

    async def script() -> None:
        served = ServedModels(Recorder(), execution, grace_s=0.05)
        with pytest.raises(DeploymentFailed, match=r"'m' is not up after 0\.1 s, and its start"):
            await served.bring_up(models("m")["key-m"])
        GATE.set()
        while "remove m" not in CALLS:
            await asyncio.sleep(0.01)
        await served.bring_up(models("m")["key-m"])

    asyncio.run(script())
    assert CALLS == ["deploy m", "remove m", "deploy m"]


def test_a_model_is_deployed_again_after_a_request_to_it_failed_for_good() -> None:
    async def script() -> None:
        served = ServedModels(Recorder(), EXECUTION)
        for _ in range(2):
            async with served.lease(models("m")):
                pass
        served.doubt(models("m"))
        async with served.lease(models("m")):
            pass

    asyncio.run(script())
    assert CALLS == ["deploy m", "deploy m"]


def test_teachers_of_one_base_share_replicas_and_have_endpoints_of_their_own() -> None:
    seen: list[tuple[str, ...]] = []

    class Watcher(Recorder, frozen=True):
        def deploy_all(
            self, models: Sequence[ServedModel], placement: Placement
        ) -> dict[str, Endpoint]:
            seen.extend(tuple(a.name for a in model.adapters) for model in models)
            return super().deploy_all(models, placement)

    async def script() -> None:
        served = ServedModels(Watcher(), EXECUTION)
        async with served.endpoints(teachers("t0", "t1")):
            pass
        async with served.endpoints(teachers("t0", "t1", "late")) as endpoints:
            reached = {key: (e.model, e.adapter and e.adapter.name) for key, e in endpoints.items()}
            assert reached == {f"key-{n}": (n, n) for n in ("t0", "t1", "late")}
            async with served.lease(teachers("t0", "t1")) as clients:
                assert clients["key-t0"] is not clients["key-t1"]
        assert served.names == ("shared",)
        await served.close()

    asyncio.run(script())
    assert seen == [("t0", "t1")]
    assert CALLS == ["deploy shared", "remove shared"]


def test_models_run_as_their_own_placement_says() -> None:
    seen: dict[str, Placement] = {}

    class Watcher(Recorder, frozen=True):
        def deploy_all(
            self, models: Sequence[ServedModel], placement: Placement
        ) -> dict[str, Endpoint]:
            seen.update({model.name: placement for model in models})
            return super().deploy_all(models, placement)

    big = Placement(num_gpus=1, tensor_parallel=2, max_replicas=3)
    execution = replace(EXECUTION, placement=Placement(num_gpus=0.5), placements={"key-big": big})

    async def script() -> None:
        served = ServedModels(Watcher(), execution)
        async with served.lease(models("big", "small")):
            pass
        await served.close()

    asyncio.run(script())
    assert seen == {"big": big, "small": Placement(num_gpus=0.5)}
