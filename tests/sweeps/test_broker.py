"""Stages on a real two-CPU cluster: real gangs, real light workers, toy stages."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from serving.backends.scripted import Scripted
from sweeps.broker import start_broker
from sweeps.client import BrokerClient, DriverClient
from sweeps.events import StageEvent
from sweeps.resources import Execution, GangShape
from sweeps.store import ArtifactStore
from sweeps.worker import run_stage
from tests.brokers import Unheard
from tests.toys import Chat, Descent, Number, Sum, read
from w2s.errors import StageFailed, UserError
from w2s.stages.base import Stage

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(str(tmp_path_factory.mktemp("broker") / "store"))


TOLD: list[StageEvent] = []


@pytest.fixture(scope="module")
def client(ray_session: None, store: ArtifactStore) -> Iterator[DriverClient]:
    execution = Execution(
        store=store.root, shape=GangShape(), backend=Scripted(), max_gangs=1, lease_s=4.0
    )
    with start_broker(execution) as client:
        yield client


def until(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def told(client: DriverClient) -> list[StageEvent]:
    TOLD.extend(client.events())
    return TOLD


def end_of(client: DriverClient, stage: Stage) -> list[str]:
    return [event.state for event in told(client) if event.key == stage.key]


def test_stages_of_all_lanes_run_in_order_and_end_in_the_store(
    client: DriverClient, store: ArtifactStore
) -> None:
    sources = (Number(value=2), Number(value=5))
    top = Sum(inputs_=(Sum(inputs_=sources, tag="lanes"), sources[0]), tag="lanes-top")
    client.request([top, Chat()])
    assert read(store.local(top)) == 9
    assert len((store.local(Chat()) / "lines.txt").read_text().splitlines()) == 4
    event = next(event for event in told(client) if event.key == top.key)
    assert event.state == "done"
    assert event.record is not None
    assert event.record.curve[-1].metrics == {"total": 9.0}


def test_stage_that_two_callers_ask_for_runs_once(client: DriverClient, tmp_path: Path) -> None:
    log = tmp_path / "log"
    shared = Sum(tag="shared", log=str(log))

    def ask(tag: str) -> None:
        BrokerClient(client.name, client.driver).request([Sum(inputs_=(shared,), tag=tag)])

    callers = [threading.Thread(target=ask, args=(tag,)) for tag in ("a", "b")]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(lines(log)) == 1


def test_damaged_artifact_is_made_again_before_its_content_is_told(
    client: DriverClient, store: ArtifactStore, tmp_path: Path
) -> None:
    stage, stuck = Number(value=77), Number(value=78, obstacle=str(tmp_path / "obstacle"))
    for each in (stage, stuck):
        assert run_stage(each, store).record
        (store.local(each) / "number.json").write_text('{"value": 99}')
    client.request([stage, stuck])
    assert client.read_json([stage.key], "number.json") == {stage.key: {"value": 77}}
    (tmp_path / "obstacle").write_text("")
    with pytest.raises(StageFailed, match="no number 78"):
        client.read_json([stuck.key], "number.json")


def test_failure_reaches_every_waiter_with_its_cause_and_the_rest_goes_on(
    client: DriverClient, store: ArtifactStore
) -> None:
    broken = Number(value=13, fails=True)
    requests = [client.ask([Sum(inputs_=(broken,), tag=tag)]) for tag in ("c", "d")]
    good = client.ask([Sum(inputs_=(Number(value=1),), tag="good")])
    for number in requests:
        with pytest.raises(StageFailed) as caught:
            client.wait(number)
        assert caught.value.key == broken.key
        assert caught.value.cause == "ArithmeticError: no number 13"
    client.wait(good)
    assert not store.has(broken)


def test_error_in_a_training_leaves_its_gang_up(client: DriverClient, tmp_path: Path) -> None:
    log, obstacle = tmp_path / "log", tmp_path / "obstacle"
    obstacle.write_text("")
    client.request([Sum(tag="before", log=str(log))])
    with pytest.raises(StageFailed, match=r"stage sum-blocked .* ArithmeticError: blocked"):
        client.request([Sum(tag="blocked", obstacle=str(obstacle))])
    client.request([Sum(tag="after", log=str(log))])
    before, after = (line.split()[1] for line in lines(log))
    assert before == after


@ray.remote(num_cpus=0)
class Asker:
    """A caller that can be killed."""

    def ask(self, broker: str, driver: str, stages: list[Stage]) -> None:
        self.client = BrokerClient(broker, driver)
        self.client.ask(stages)


def test_dead_caller_takes_its_own_stages_along_but_no_shared_one(
    client: DriverClient, store: ArtifactStore, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    shared = Sum(tag="both", gate=str(gate), work=9.0)
    private = Sum(tag="private")
    asker: Any = Asker.remote()  # pyright: ignore
    ray.get(asker.ask.remote(client.name, client.driver, [shared, private]))
    number = client.ask([shared])
    ray.kill(asker)
    done = threading.Thread(target=client.wait, args=(number,))
    done.start()
    until(lambda: end_of(client, private) == ["cancelled"])
    gate.write_text("")
    done.join()
    assert store.has(shared)
    assert not store.has(private)


def test_broker_whose_call_to_itself_was_lost_begins_with_its_first_driver(tmp_path: Path) -> None:
    execution = Execution(
        store=str(tmp_path), shape=GangShape(), backend=Scripted(), max_gangs=1, lease_s=2.0
    )
    private = Sum(tag="unheard", gate=str(tmp_path / "never"))
    with start_broker(execution, Unheard) as client:
        asker: Any = Asker.remote()  # pyright: ignore
        ray.get(asker.ask.remote(client.name, client.driver, [private]))
        ray.kill(asker)
        ends: list[str] = []

        def is_cancelled() -> bool:
            ends.extend(event.state for event in client.events() if event.key == private.key)
            return ends == ["cancelled"]

        until(is_cancelled, 60.0)


def test_running_stage_stops_when_nobody_awaits_it(client: DriverClient, tmp_path: Path) -> None:
    endless = Sum(tag="endless", gate=str(tmp_path / "never"))
    number = client.ask([endless])
    until(lambda: any(stage.step > 0 for stage in client.snapshot().running))
    client.release(number)
    until(lambda: end_of(client, endless) == ["cancelled"])
    assert client.snapshot().running == ()


def test_stage_of_a_killed_worker_runs_again_and_is_committed_once(
    client: DriverClient, store: ArtifactStore, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    stage = Sum(tag="killed", log=str(log), gate=str(gate))
    number = client.ask([stage])
    until(lambda: len(lines(log)) == 1)
    until(lambda: any(stage.step > 0 for stage in client.snapshot().running))
    os.kill(int(lines(log)[0].split()[1]), signal.SIGKILL)
    alive = threading.Thread(target=client.wait, args=(number,))
    alive.start()
    until(lambda: len(lines(log)) == 2)
    assert not store.has(stage)
    gate.write_text("")
    alive.join()
    assert end_of(client, stage) == ["done"]
    assert read(store.local(stage)) == 0
    store.clear_scratch()
    assert list((Path(store.root) / ".tmp").glob(f"{stage.key}*")) == []


def test_killed_broker_comes_back_and_nothing_is_lost_or_told_twice(
    client: DriverClient, store: ArtifactStore, tmp_path: Path
) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    source = Number(value=31)
    stage = Sum(inputs_=(source,), tag="through", log=str(log), gate=str(gate))
    request = client.ask([stage])
    until(lambda: end_of(client, source) == ["done"] and len(lines(log)) == 1)
    broker, gang = process_of("ray::StageBroker"), psutil.Process(int(lines(log)[0].split()[1]))
    broker.kill()
    until(lambda: not gang.is_running() and len(lines(log)) == 2)
    until(lambda: ray.available_resources().get("CPU") == 1.0)  # the new gang has the other one
    gate.write_text("")
    client.wait(request)
    until(lambda: end_of(client, stage) == ["done"])
    assert end_of(client, source) == ["done"]
    assert read(store.local(stage)) == 31
    assert client.noticed() == ["the stage broker died once; the next one went on"]


def test_broker_is_shared_by_drivers_that_run_stages_in_other_ways_and_outlives_one(
    client: DriverClient, store: ArtifactStore
) -> None:
    shared, own = Number(value=41), Number(value=42)
    client.request([shared])
    with start_broker(Execution(store=store.root, shape=GangShape(), retries=0)) as other:
        assert other.name == client.name
        other.request([shared, own])
        assert [(event.name, event.state) for event in other.events()] == [
            ("number 41", "cached"),
            ("number 42", "done"),
        ]
    assert end_of(client, own) == []
    client.request([Number(value=43)])
    assert client.noticed() == ["the stage broker died once; the next one went on"]


def process_of(title: str) -> psutil.Process:
    family = psutil.Process().children(recursive=True)
    return next(process for process in family if title in " ".join(process.cmdline()))


def test_rerun_does_only_what_is_missing(store: ArtifactStore, tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    obstacle.write_text("")
    trained = Sum(tag="trained", log=str(tmp_path / "log"))
    fails = Number(value=7, obstacle=str(obstacle))
    assert run_stage(trained, store).record is not None
    assert run_stage(fails, store).cause
    obstacle.unlink()
    with start_broker(Execution(store=store.root, shape=GangShape())) as client:
        client.request([trained, fails])
        assert [(event.name, event.state) for event in client.events()] == [
            ("sum-trained", "cached"),
            ("number 7", "done"),
        ]
    assert len(lines(tmp_path / "log")) == 1


def test_two_workers_train_what_one_trains(store: ArtifactStore, tmp_path: Path) -> None:
    alone = ArtifactStore(str(tmp_path / "alone"))
    assert run_stage(Descent(), alone).record is not None
    with start_broker(Execution(store=store.root, shape=GangShape(num_workers=2))) as client:
        client.request([Descent()])
    one, two = ((each.local(Descent()) / "number.json").read_text() for each in (alone, store))
    assert '"replicas": 2' in two
    assert json.loads(two)["value"] == pytest.approx(json.loads(one)["value"], abs=1e-6)


def test_shape_that_the_cluster_can_never_give_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(UserError, match="can never give"):
        start_broker(Execution(store=store.root, shape=GangShape(num_workers=3)))
