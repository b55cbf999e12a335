import http.server
import os
import subprocess
import sys
import threading

import pytest

from sweeps.cluster import connect
from w2s.errors import UserError


def test_address_where_nothing_listens_is_refused() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at '127.0.0.1:9'"):
        connect("127.0.0.1:9")


def test_address_of_something_else_is_refused() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
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


@pytest.mark.ray
def test_local_cluster_leaves_no_process_and_no_file() -> None:
    script = (
        "import os, ray; from sweeps import cluster; connection = cluster.connect(num_cpus=1);"
        "f = ray.remote(lambda: (os.getpid(), os.environ['OMP_WAIT_POLICY']));"
        "print(*ray.get(f.remote()), connection.temp_dir); cluster.disconnect(connection)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, text=True, capture_output=True
    ).stdout.split()
    worker, policy, folder = int(found[0]), found[1], found[2]
    assert policy == "PASSIVE"
    assert not os.path.exists(folder)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
