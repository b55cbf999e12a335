"""MLflow is killed, slow, locked, away: no sweep fails or waits; its log is whole in the end."""

import logging
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.runs import RunEntry
from sweeps.tracking import Tracker
from tests.faults import many_writers
from tests.faults.mlflow_servers import Server, held, postgresql, proxy
from tests.faults.sweeping import ROOT, TINY, Run, long_fault, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What MLflow holds of a sweep during which nothing happened."""
    folder = tmp_path_factory.mktemp("undisturbed")
    uri = f"sqlite:///{folder}/mlflow.db"
    many_writers.log_sweep(uri, folder, 0, problems := [])
    assert problems == []
    return _plain(held(uri, "sweep-0"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the module: it takes long to start."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


def _plain(runs: dict[str, Any]) -> dict[str, Any]:
    """Without what holds the name of the sweep."""
    for run in runs.values():
        for tag in ("w2s.sweep", "w2s.sweep_key", "w2s.content"):
            run["tags"].pop(tag, None)
    runs["sweep"]["name"] = runs["sweep"]["tags"]["mlflow.runName"] = ""
    return runs


def test_a_server_that_is_killed_for_a_while_misses_nothing(
    server: Server, tmp_path: Path, undisturbed: dict[str, Any]
):
    entries = many_writers.entries(100)
    tracker = Tracker(server.uri, tmp_path / "journal")
    for entry in entries[:4]:
        tracker.log(entry)
    wait_for(lambda: tracker.num_pending <= 2, "half of the first entries in MLflow")
    server.kill()
    for entry in entries[4:]:
        tracker.log(entry)
    wait_for(lambda: tracker.away, "a look at a server that is gone")
    assert tracker.num_pending
    server.start()
    wait_for(lambda: not tracker.num_pending, "everything in MLflow")
    assert tracker.close() == []
    assert _plain(held(server.uri, "sweep-100")) == undisturbed


def test_answers_that_come_too_late_double_nothing(
    server: Server, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")

    def wait_s(number: int, answer: bool) -> float:
        # Some requests are carried out long after the client has given up on them.
        return 3.0 if number % (7 if answer else 11) == 3 else 0.02

    with proxy(server.port, wait_s) as uri:
        tracker = Tracker(uri, tmp_path / "journal")
        for entry in many_writers.entries(101):
            tracker.log(entry)
        wait_for(lambda: not tracker.num_pending, "everything in MLflow", 600)
        assert tracker.close() == []
        time.sleep(3.5)  # No request of it is on its way any more.
    monkeypatch.undo()
    with Tracker(server.uri, tmp_path / "journal") as again:
        for entry in many_writers.entries(101):
            again.log(entry)
        assert again.close() == []
    assert _plain(held(server.uri, "sweep-101")) == undisturbed


def test_a_database_that_another_process_has_locked_gets_everything_later(
    tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first, *others = many_writers.entries(102)
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(first)
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('begin exclusive'); print('locked', flush=True); sys.stdin.readline()"
    )
    locker = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "mlflow.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert locker.stdout
    assert locker.stdout.readline() == "locked\n"
    tracker = Tracker(uri, tmp_path / "journal")
    with caplog.at_level(logging.WARNING):
        for entry in others:
            tracker.log(entry)
        wait_for(lambda: tracker.away, "a look at a database that is locked")
    assert tracker.num_pending == len(others)
    locker.communicate("\n")
    wait_for(lambda: not tracker.num_pending, "everything in MLflow")
    assert tracker.close() == []
    assert "does not answer; the log is kept" in caplog.text
    assert _plain(held(uri, "sweep-102")) == undisturbed


def _logging_for_ever(uri: str, folder: Path) -> None:
    tracker = Tracker(uri, folder)
    for entry in many_writers.entries(103):
        tracker.log(entry)
    print("logged", flush=True)
    tracker.settle(timeout_s=3600)


def test_the_log_of_a_driver_that_is_killed_is_written_by_the_next_one(
    server: Server, tmp_path: Path, undisturbed: dict[str, Any]
):
    driver = multiprocessing.get_context("spawn").Process(
        target=_logging_for_ever, args=(server.uri, tmp_path / "journal")
    )
    driver.start()
    wait_for(
        lambda: any(
            len(path.read_bytes().splitlines()) >= 10 for path in tmp_path.glob("journal/*.jsonl")
        ),
        "ten entries in the journal",
    )
    driver.kill()
    driver.join()
    with Tracker(server.uri, tmp_path / "journal") as tracker:
        assert tracker.close(timeout_s=240) == []
    assert not list(tmp_path.glob("journal/*.jsonl"))
    assert _plain(held(server.uri, "sweep-103")) == undisturbed


def test_thirty_two_drivers_at_once_lose_and_double_nothing_on_sqlite(
    server: Server, tmp_path: Path, undisturbed: dict[str, Any]
):
    _many_at_once(server.uri, tmp_path, undisturbed)


def test_thirty_two_drivers_at_once_lose_and_double_nothing_on_postgresql(
    tmp_path: Path, undisturbed: dict[str, Any]
):
    with postgresql(tmp_path) as backend, Server(tmp_path, backend) as server:
        _many_at_once(server.uri, tmp_path, undisturbed)


def _many_at_once(uri: str, folder: Path, undisturbed: dict[str, Any]) -> None:
    """Four processes of eight drivers; two of them have the same eight sweeps."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.many_writers", uri, str(folder), *span],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for span in (("0", "8"), ("0", "8"), ("8", "16"), ("16", "24"))
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        said, _ = process.communicate(timeout=800)
        assert process.returncode == 0, said
    number = sum(isinstance(entry, RunEntry) for entry in many_writers.entries(0)) - 1
    print(f"{24 * number / (time.monotonic() - started):.1f} runs/s over {uri}")
    for sweep in range(24):
        assert _plain(held(uri, f"sweep-{sweep}")) == undisturbed


@long_fault
@pytest.mark.ray
def test_a_sweep_without_its_server_runs_to_its_end_and_is_whole_after_sync(
    server: Server, tmp_path: Path
):
    server.kill()
    uri = server.uri
    here = ("--set", f"runtime.tracking_uri={uri}")
    with Run(tmp_path, "run", str(TINY), "--plain", *here) as run:
        assert run.finish(timeout_s=600) == 0, run.printed
    assert "does not answer" in run.printed
    assert "entries are not in MLflow" in run.printed
    server.start()
    for _ in range(2):
        with Run(tmp_path, "sync") as sync:
            assert sync.finish() == 0, sync.printed
    replayed = held(uri, "tiny")
    kinds = [identity.partition(":")[0] for identity in replayed]
    stages = list((tmp_path / "w2s_store").glob("*/*/manifest.json"))
    assert kinds.count("sweep") == kinds.count("trial") == 1
    assert kinds.count("stage") == len(stages)
    assert {run["status"] for run in replayed.values()} == {"FINISHED"}
    assert {"results/trials.json", "report/report.html"} <= {*replayed["sweep"]["artifacts"]}

    # A new tracking server gets the same from the store alone.
    new = ("--tracking-uri", f"sqlite:///{tmp_path}/new.db")
    with Run(tmp_path, "sync", str(TINY), *here, *new) as sync:
        assert sync.finish() == 0, sync.printed
    assert held(f"sqlite:///{tmp_path}/new.db", "tiny") == replayed

    # Of a sweep that never came to its end, what there is.
    store = tmp_path / "w2s_store"
    shutil.rmtree(store / ".results")
    trial = next(run for identity, run in replayed.items() if identity.startswith("trial:"))
    _, student, _ = trial["tags"]["w2s.stages"].split()  # Between the floor and the ceiling.
    (folder,) = store.glob(f"evaluate/*-{student}")
    shutil.rmtree(folder)
    part = ("--tracking-uri", f"sqlite:///{tmp_path}/part.db")
    with Run(tmp_path, "sync", str(TINY), *here, *part) as sync:
        assert sync.finish() == 0, sync.printed
    found = held(f"sqlite:///{tmp_path}/part.db", "tiny")
    assert found.pop("sweep")["status"] == "KILLED"
    missing = {identity for identity in replayed if identity not in found}
    assert {identity.partition(":")[0] for identity in missing} == {"sweep", "trial", "stage"}
    assert len(missing) == 3
    assert {identity: replayed[identity] for identity in found} == found
