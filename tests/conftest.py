"""Fixtures: a store in a temporary folder, and one Ray session for all tests that need Ray."""

import os
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
