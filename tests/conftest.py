"""Fixtures: a store in a temporary folder, and one Ray session for all tests that need Ray."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# As `make` sets them: several threads crawl beside other processes, and sums then depend on them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from sweeps.store import ArtifactStore

ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """URL of an empty bucket behind a real S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3").create_bucket(Bucket="w2s")
        yield "s3://w2s"
    server.stop()


@pytest.fixture(params=["local", "file", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store on each kind of file system."""
    roots = {
        "local": lambda: str(tmp_path / "store"),
        "file": lambda: f"file://{tmp_path}/store",
        "memory": lambda: f"memory://{uuid.uuid4().hex}",
        "s3": lambda: f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}",
    }
    return ArtifactStore(roots[request.param](), cache=str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local two-CPU cluster whose workers can import the tests' own stages."""
    from sweeps.cluster import connect, disconnect

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before]))
    connection = connect(num_cpus=2)
    yield
    disconnect(connection)
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
