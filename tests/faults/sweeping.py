"""Real sweeps to break: start `w2s` as a user would, kill what it started, see what is left.

A `Run` is one `w2s` command in a process of its own. Every process that comes of it, however far
down, is in its session or carries its mark in its environment: that is how `Run.processes` finds
workers of Ray, engines and orphans alike, and nobody else's. `same_results` compares two stores.
"""

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).parent / "tiny.toml"
MARK = "W2S_TEST_MARK"
PATIENCE_S = 600.0
"""Bounds every wait; measures nothing."""
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
"""For all who join a `Cluster`: whether Ray asks for its token depends on the user's home else."""
LONG_FAULTS = "W2S_LONG_FAULTS"
long_fault = pytest.mark.skipif(
    LONG_FAULTS not in os.environ, reason="takes minutes: `make test-faults` runs it"
)
"""Marks a test of several minutes, so that CI stays within an hour."""
RECORDS = ("stage.json", "metrics.jsonl", "manifest.json")
"""Files of an artifact that say when and where it was made, and so differ between two runs."""


class Run:
    """A `w2s` command that runs now, with all processes that come of it.

    Use it as a context manager: what it left running is killed at the end of the block.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        mark: str | None = None,
    ) -> None:
        """Start it.

        Args:
            folder: its working folder; store, database and reports go there.
            arguments: of `w2s`; none: `run tiny.toml --plain`.
            environment: variables beside those of this process.
            mark: mark of an earlier run or cluster that this one belongs to; None: a new one.
        """
        self.mark = mark or uuid.uuid4().hex
        own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", MARK: self.mark}
        own.pop("RAY_ADDRESS", None)
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "sweeps.cli", *(arguments or ("run", str(TINY), "--plain"))],
            cwd=folder,
            env={**own, **(environment or {})},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._printed: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        for process in self.processes():
            process.kill()

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get_nowait()) is not None:
                self._printed.append(line)
            self._lines.put(None)
        return "".join(self._printed)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a state that comes while it runs; fails with what it printed."""

        def come_or_ended() -> bool:
            return bool(condition()) or self.popen.poll() is not None

        wait_for(come_or_ended, what, found=lambda: self.printed)
        assert condition(), f"it ended without {what}:\n{self.printed}"

    def read_until(self, pattern: str, timeout_s: float = PATIENCE_S) -> str:
        """Wait for a line that matches; returns it."""
        deadline = time.monotonic() + timeout_s
        while True:
            line = self._line(deadline)
            assert line is not None, f"it ended without a line like {pattern!r}:\n{self.printed}"
            if re.search(pattern, line):
                return line

    def finish(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait until it ends; returns its exit code, and `printed` has everything."""
        deadline = time.monotonic() + timeout_s
        while self._line(deadline) is not None:
            pass
        return self.popen.wait(timeout=max(1.0, deadline - time.monotonic()))

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Its living processes whose command line has `title` in it.

        Ray's titles: `ray::StageBroker`, `ray::LightWorker`, `ray::ServeHost`,
        `ray::TrainController`, `ray::RayTrainWorker`, `ray::ServeReplica`, `ray::ImplicitFunc` (a
        trial of Tune), `raylet/raylet`, `gcs/gcs_server`; the engine of vLLM is `VLLM::EngineCore`.
        """
        found = family(self.popen.pid, self.mark)
        return [process for process in found if title in _command(process)]

    def one(self, title: str, timeout_s: float = PATIENCE_S) -> psutil.Process:
        """Wait for a process with such a title; returns the newest."""
        wait_for(lambda: bool(self.processes(title)), f"a process {title}", timeout_s)
        return max(self.processes(title), key=lambda process: process.create_time())

    def kill(self, title: str, timeout_s: float = PATIENCE_S) -> int:
        """kill -9 a process with such a title, once there is one; returns its id."""
        process = self.one(title, timeout_s)
        process.send_signal(signal.SIGKILL)
        return process.pid

    def assert_nothing_left(self, timeout_s: float = 180.0) -> None:
        """None of its processes is alive, after the time that the last ones need to notice."""
        wait_for(lambda: not self.processes(), "the end of every process", timeout_s, self._left)

    def _left(self) -> str:
        return "\n".join(_command(process) for process in self.processes())

    def _line(self, deadline: float) -> str | None:
        try:
            line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"it went quiet after:\n{self.printed}") from None
        if line is not None:
            self._printed.append(line)
        else:
            self._lines.put(None)
        return line

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put(None)


class Cluster:
    """A Ray cluster that is there before the sweeps that join it: a head, and workers if asked for.

    A context manager; each node is a `ray start` of its own, with its own folder and ports, on
    loopback.
    """

    def __init__(self, num_cpus: int = 2) -> None:
        """Args: num_cpus: of the head."""
        self.mark = uuid.uuid4().hex
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._sessions: list[int] = []
        self._port = _free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._start(
            "--head",
            f"--port={self._port}",
            f"--temp-dir={self.folder}",
            "--include-dashboard=false",
            num_cpus=num_cpus,
        )

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add_node(self, num_cpus: int = 1) -> int:
        """Add a worker node; returns its number."""
        self._start(f"--address={self.address}", num_cpus=num_cpus)
        return len(self._sessions) - 1

    def kill_node(self, number: int) -> None:
        """kill -9 everything that a node runs."""
        for process in family(self._sessions[number], "-"):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def processes(self, title: str = "", node: int | None = None) -> list[psutil.Process]:
        """Living processes of all nodes, or of one, whose command line has `title` in it."""
        sessions = self._sessions if node is None else [self._sessions[node]]
        found = [p for session in sessions for p in family(session, "-")]
        return [process for process in found if title in _command(process)]

    def logged(self, pattern: str) -> list[str]:
        """First group of every match in what the processes of the cluster wrote to stderr."""
        logs = self.folder.glob("session_latest/logs/worker-*.err")
        return [found for log in logs for found in re.findall(pattern, log.read_text())]

    def _start(self, *arguments: str, num_cpus: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), MARK: self.mark}
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", **NO_TOKEN}
        ray = Path(sys.executable).with_name("ray")
        started = subprocess.Popen(
            [
                str(ray),
                "start",
                *arguments,
                f"--num-cpus={num_cpus}",
                "--disable-usage-stats",
                "--node-ip-address=127.0.0.1",
                f"--object-store-memory={200 * 2**20}",
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._sessions.append(started.pid)
        printed, _ = started.communicate(timeout=PATIENCE_S)
        if started.returncode != 0:
            self.__exit__()
            raise AssertionError(printed)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def family(session: int, mark: str) -> list[psutil.Process]:
    """Living processes of a session, or with this mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            # A title may overwrite a part of the environment, an engine may leave the session.
            ours = os.getsid(process.pid) == session or process.environ().get(MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(
    condition: Callable[[], object],
    what: str,
    timeout_s: float = PATIENCE_S,
    found: Callable[[], str] = str,
) -> None:
    """Wait for a state; fails with its name, and with what is there instead."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting for {what}; {found()}"
        time.sleep(0.1)


def store_of(folder: Path) -> Path:
    """The store of a run in this folder."""
    return folder / "w2s_store"


def status(store: Path) -> str:
    """What `w2s status` says of `tiny.toml` over this store, whoever runs it."""
    command = [sys.executable, "-m", "sweeps.cli", "status", str(TINY)]
    return subprocess.run(
        [*command, f"--set=runtime.store={store}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def artifacts(store: Path) -> dict[str, Path]:
    """Folder of each whole artifact of a local store, by key."""
    return {
        manifest.parent.name.rpartition("-")[2]: manifest.parent
        for manifest in store.glob("*/*/manifest.json")
        if not manifest.relative_to(store).parts[0].startswith(".")
    }


def starts(store: Path) -> dict[str, float]:
    """When the run that left each artifact began (Unix seconds), by key."""
    return {
        key: json.loads((folder / "stage.json").read_text())["started"]
        for key, folder in artifacts(store).items()
    }


def workspaces(store: Path) -> set[str]:
    """Names of the folders in which workers write artifacts, or did when they were killed."""
    work = store / ".tmp"
    return {folder.name for folder in work.iterdir() if folder.is_dir()} if work.exists() else set()


def running(store: Path, name: str, left: Collection[str] = ()) -> bool:
    """Whether a worker writes an artifact now whose readable name contains `name`.

    Known from its workspace: `tiny.toml` has to be planned for the key. `left` are workspaces of
    workers that were killed.
    """
    keys = {key for key, stage in names().items() if name in stage}
    return any(found.partition("-")[0] in keys for found in workspaces(store) - set(left))


@cache
def names() -> dict[str, str]:
    """Readable name of each stage of `tiny.toml`, by key."""
    from sweeps.load import load
    from sweeps.plan import Plan, Planner, Point

    planner = Planner(load(TINY)[0])
    points = [Point(cell) for cell in planner.cells()]
    plan = Plan(
        root for point in points for roles in planner.roles(point).values() for root in roles
    )
    return {key: stage.name for key, stage in plan.stages.items()}


def same_results(disturbed: Path, undisturbed: Path) -> None:
    """Two stores hold the same artifacts: equal keys, and every file of a result equal in bytes.

    Weights, predictions and scores are compared; times and hosts are not. Nothing half-written is
    in `disturbed`.
    """
    left, right = artifacts(disturbed), artifacts(undisturbed)
    assert left.keys() == right.keys()
    for key, folder in left.items():
        files = _results(folder)
        assert files.keys() == _results(right[key]).keys(), folder.name
        for name, content in files.items():
            assert content == (right[key] / name).read_bytes(), f"{folder.name}/{name} differs"
    half = [
        folder
        for folder in disturbed.glob("*/*/")
        if not folder.relative_to(disturbed).parts[0].startswith(".")
        and not (folder / "manifest.json").exists()
    ]
    assert not half, half


def _results(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in RECORDS
    }


def rerun_only(before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """What was committed `before` was not made again `after` (both from `starts`)."""
    again = {key for key, started in before.items() if after.get(key) != started}
    assert not again, again
