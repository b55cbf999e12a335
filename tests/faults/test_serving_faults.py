"""What serves models is killed with -9 while debates run, and models that do not fit together."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.models import Placement
from sweeps.broker import start_broker
from sweeps.client import DriverClient
from sweeps.resources import Execution, GangShape
from sweeps.store import ArtifactStore
from tests.faults import sweeping
from tests.faults.talks import FINISHED, Talk
from tests.serving.tiny import save_language_model, save_tokenizer
from tests.toys import Sum
from w2s.errors import UserError
from w2s.models.source import PretrainedModel, resolve
from w2s.stages.resume import finished_lines

pytestmark = [
    pytest.mark.ray,
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.usefixtures("ray_session"),
]


def wait_for(condition: Callable[[], object], what: str) -> None:
    """A model starts in half a minute, on a busy machine in several."""
    sweeping.wait_for(condition, what, timeout_s=600.0, found=lambda: str(served_by()))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[PretrainedModel]:
    found = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("models") / f"m{seed}"
        save_language_model(folder, seed=seed)
        save_tokenizer(folder)
        found.append(resolve(PretrainedModel(path=str(folder))))
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(str(tmp_path_factory.mktemp("serving") / "store"))


@pytest.fixture
def client(store: ArtifactStore) -> Iterator[DriverClient]:
    """Of a broker whose models each take both CPUs of the cluster."""
    how = Execution(store=store.root, shape=GangShape(), placement=Placement(num_cpus=2))
    with start_broker(how) as client:
        yield client
    wait_for(lambda: not served_by(), "the end of replicas and engines")


def served_by() -> dict[str, list[int]]:
    """Ids of the living processes that serve models, by what they are."""
    found: dict[str, list[int]] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        for name in ("ServeReplica", "EngineCore", "ServeHost"):
            if name in title and alive:
                found.setdefault(name, []).append(process.pid)
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def some_more(log: Path) -> None:
    """Wait until debates were finished that were not begun yet."""
    start = len(lines(log))
    wait_for(lambda: len(lines(log)) > start + 10, "more debates")


@sweeping.long_fault
def test_debates_go_on_after_replica_engine_and_host_were_killed(
    client: DriverClient, store: ArtifactStore, models: list[PretrainedModel], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    talk = Talk(models=(models[0],), tag="killed", num_debates=300, log=str(log))
    number = client.ask([talk])
    some_more(log)
    for victim in ("ServeReplica", "EngineCore", "ServeHost"):
        there = served_by()
        os.kill(there[victim][0], signal.SIGKILL)
        if victim != "ServeHost":
            wait_for(
                lambda old=there: not any(map(is_alive, old["EngineCore"])), "its engine's end"
            )
        kept = lines(log)
        some_more(log)
        assert lines(log)[: len(kept)] == kept
    client.wait(number)
    questions = [line.split()[1] for line in lines(log)]
    assert len(questions) == len(set(questions)), "a finished debate was held again"
    attempts = [line.split()[2] for line in lines(log)]
    assert len(set(attempts)) == 2, "only the death of the host is another attempt"
    kept_ids = [row["question_id"] for row in finished_lines(store.local(talk) / FINISHED)]
    assert sorted(kept_ids) == sorted(f"q{n}" for n in range(300))
    # The host may have died after it wrote a debate down and before it said so.
    assert [q for q in kept_ids if q in set(questions)] == questions


def test_three_models_that_fit_one_at_a_time_and_a_training_between_them_all_finish(
    client: DriverClient, store: ArtifactStore, models: list[PretrainedModel]
) -> None:
    most: dict[str, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for name, pids in served_by().items():
                most[name] = max(most.get(name, 0), len(pids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        first = [Talk(models=(model,), tag=f"first-{n}") for n, model in enumerate(models)]
        between = Sum(inputs_=(first[0],), tag="between")
        last = Talk(models=(models[0],), tag="last", after=between)
        client.request([*first, last])
    finally:
        over.set()
        watcher.join()
    for talk in (*first, last):
        ids = [row["question_id"] for row in finished_lines(store.local(talk) / FINISHED)]
        assert sorted(ids) == sorted(f"q{number}" for number in range(talk.num_debates))
    assert store.has(between)
    assert most["ServeReplica"] == most["EngineCore"] == 1


def test_models_of_one_debate_that_can_never_be_up_together_are_refused_at_once(
    client: DriverClient, models: list[PretrainedModel]
) -> None:
    duel = Talk(models=(models[0], models[1]), tag="duel")
    with pytest.raises(UserError, match=r"stage talk-duel needs models served .* same time"):
        client.ask([duel])
    served: Any = served_by()
    assert "ServeReplica" not in served
