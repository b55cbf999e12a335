import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sweeps.cluster import connect
from tests.conftest import ROOT
from w2s.errors import UserError


def test_address_where_nothing_listens_is_refused() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at '127.0.0.1:9'"):
        connect("127.0.0.1:9")


def test_address_of_something_else_is_refused() -> None:
    server = http.server.HTTPServer(("0.0.0.0", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UserError, match="something else listens"):
        connect(f"127.0.0.1:{server.server_port}")
    server.shutdown()


@pytest.mark.parametrize("address", ["ray://host:10001", "http://host:8265"])
def test_address_of_a_client_or_job_server_says_how_to_submit(address: str) -> None:
    with pytest.raises(UserError, match="ray job submit"):
        connect(address)


def test_address_without_a_port_is_refused() -> None:
    with pytest.raises(UserError, match="'somewhere' is not HOST:PORT"):
        connect("somewhere")


LOCAL = """
import os, ray
from sweeps import cluster

with cluster.connected() as connection:
    facts = ray.remote(lambda: (os.getpid(), os.environ["OMP_WAIT_POLICY"]))
    address = ray.get_runtime_context().gcs_address
    print(*ray.get(facts.remote()), connection.temp_dir, address)
"""

AGAIN = """
import psutil
from ray._private.node import Node
from sweeps import cluster

start_raylet = Node.start_raylet

def too_slow(node, *arguments, **named):
    Node.start_raylet = start_raylet
    raise Exception("the raylet took too long")

Node.start_raylet = too_slow
with cluster.connected():
    names = [process.name() for process in psutil.Process().children(recursive=True)]
    print(names.count("gcs_server"), names.count("raylet"))
"""

LOSE = """
import os, threading, time
import psutil
from sweeps import cluster

def lives(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

with cluster.connected() as connection:

    def lost(loss):
        family = psutil.Process().children(recursive=True)
        cluster.abandon(connection)
        for _ in range(400):
            if not any(map(lives, family)):
                break
            time.sleep(0.1)
        left = sum(map(lives, family))
        print(loss, len(family) > 3, left, os.path.exists(connection.temp_dir), flush=True)
        os._exit(0)

    with cluster.watched(connection, lost):
        servers = psutil.Process().children(recursive=True)
        next(p for p in servers if "gcs/gcs_server" in " ".join(p.cmdline())).kill()
        threading.Event().wait(90)
"""

JOIN = """
import sys, tempfile, ray
from sweeps import cluster

if sys.argv[1:]:
    with cluster.connected(sys.argv[1]):
        print(cluster.node_resources()[0]["CPU"])
else:
    import subprocess
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(address="local", num_cpus=3, include_dashboard=False, _temp_dir=folder)
        address = ray.get_runtime_context().gcs_address
        subprocess.run([sys.executable, __file__, address], check=True, timeout=60)
        ray.shutdown()
"""


def output_of(script: str, folder: Path) -> str:
    path = folder / "script.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
        timeout=120,
    ).stdout.decode()


@pytest.mark.ray
def test_local_cluster_is_on_loopback_and_leaves_nothing(tmp_path: Path) -> None:
    worker, policy, folder, address = output_of(LOCAL, tmp_path).split()
    assert policy == "PASSIVE"
    assert address.startswith("127.0.0.1:")
    assert not os.path.exists(folder)
    with pytest.raises(ProcessLookupError):
        os.kill(int(worker), 0)


@pytest.mark.ray
def test_cluster_that_starts_at_the_second_time_has_nothing_of_the_first(tmp_path: Path) -> None:
    assert output_of(AGAIN, tmp_path).split() == ["1", "1"]


@pytest.mark.ray
def test_cluster_that_is_there_is_joined(tmp_path: Path) -> None:
    assert output_of(JOIN, tmp_path).split()[-1] == "3.0"


@pytest.mark.ray
def test_local_cluster_whose_head_dies_is_noticed_and_all_of_it_ended(tmp_path: Path) -> None:
    printed = output_of(LOSE, tmp_path).strip()
    assert printed == "its gcs_server has died True 0 False"
