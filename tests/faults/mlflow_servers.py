"""Real MLflow servers to take away, on SQLite and PostgreSQL, and what they hold, to compare."""

import os
import pwd
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.faults.sweeping import wait_for

START_S = 180.0
"""Bounds the start of a server on a busy machine; measures nothing."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`mlflow server` on loopback, which can be killed and started again on what it has stored."""

    def __init__(self, folder: Path, backend: str = "") -> None:
        self.folder = folder
        self.backend = backend or f"sqlite:///{folder}/server.db"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.backend]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        wait_for(self._healthy, f"an MLflow server on port {self.port}", START_S)

    def kill(self) -> None:
        """kill -9 it with its workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of its own on loopback; its URI for MLflow. Skips where none is."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    programs = found[-1].parent
    # It refuses to run as root.
    root = os.getuid() == 0
    if root and not shutil.which("runuser"):
        pytest.skip("PostgreSQL does not run as root, and there is no runuser")
    account = ["runuser", "-u", "postgres", "--"] if root else []
    data = Path("/tmp") / f"w2s-postgresql-{os.getpid()}"
    data.mkdir(mode=0o700)
    if root:
        os.chown(data, pwd.getpwnam("postgres").pw_uid, -1)
    port = free_port()
    server = None
    try:
        subprocess.run(
            [*account, programs / "initdb", "-D", data / "db", "-U", "w2s", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
            cwd="/tmp",
        )
        options = ["-h", "127.0.0.1", "-p", str(port), "-c", "fsync=off"]
        with (folder / "postgresql.log").open("wb") as log:
            server = subprocess.Popen(
                [*account, programs / "postgres", "-D", data / "db", "-k", data, *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/tmp",
            )
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        wait_for(
            lambda: subprocess.run(ready, capture_output=True).returncode == 0, "PostgreSQL", 60
        )
        yield f"postgresql://w2s@127.0.0.1:{port}/postgres"
    finally:
        if server is not None:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(timeout=60)
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def proxy(port: int, wait_s: Callable[[int, bool], float]) -> Iterator[str]:
    """A URI behind which a server is slow.

    Args:
        port: of the server.
        wait_s: seconds by which the message of a number is late; True: it is an answer.
    """
    numbers = count()

    def pipe(source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(1 << 20):
                time.sleep(wait_s(next(numbers), answers))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # Whoever waited has gone away.

    class Late(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as server:
                back = threading.Thread(target=pipe, args=(server, self.request, True))
                back.start()
                pipe(self.request, server, False)
                back.join()

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Proxy(("127.0.0.1", 0), Late) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}"
        finally:
            listening.shutdown()


def held(uri: str, experiment: str) -> dict[str, dict[str, Any]]:
    """All that MLflow holds of an experiment, by the identity of the run; none is there twice."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    page = client.search_runs([found.experiment_id], max_results=5000)
    for run in page:
        identity = run.data.tags["w2s.identity"]
        assert identity not in runs, f"{identity} is there twice"
        names[run.info.run_id] = identity
        runs[identity] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": dict(run.data.tags),
            "inputs": [i.dataset.digest for i in run.inputs.dataset_inputs] if run.inputs else [],
            "metrics": {
                name: [(m.step, m.value, m.timestamp) for m in history(client, run, name)]
                for name in run.data.metrics
            },
            "artifacts": sorted(_artifacts(client, run.info.run_id)),
        }
    for run in runs.values():
        parent = run["tags"].pop("mlflow.parentRunId", "")
        run["parent"] = names.get(parent, parent)
    return runs


def history(client: MlflowClient, run: Any, name: str) -> list[Any]:
    """Every value of a metric by step, then time."""
    found = client.get_metric_history(run.info.run_id, name)
    return sorted(found, key=lambda metric: (metric.step, metric.timestamp))


def _artifacts(client: MlflowClient, run_id: str, path: str | None = None) -> Iterator[str]:
    for item in client.list_artifacts(run_id, path):
        if item.is_dir:
            yield from _artifacts(client, run_id, item.path)
        else:
            yield item.path
