"""Two clusters on one store: what their brokers run, wait for and find."""

import asyncio
from pathlib import Path

import pytest

from sweeps import claims
from sweeps.board import Board
from sweeps.claims import Claims
from sweeps.resources import Execution, GangShape
from sweeps.store import ArtifactStore
from tests.stores import Item, put

STAGE = Item(value=3)


class Cluster:
    """A board with claims, and this test in the place of everything else."""

    def __init__(self, root: str, name: str) -> None:
        self.board = Board()
        self.store = ArtifactStore(root)
        self.claims = Claims(self.board, self.store, name)
        execution = Execution(store=root, shape=GangShape())
        self.board.add([STAGE], (), execution)

    def start(self) -> bool:
        """Start the stage on the board; returns whether it may run."""
        self.board.start(STAGE.key)
        return STAGE.key in asyncio.run(self.claims.take([STAGE]))

    @property
    def state(self) -> str:
        return self.board.nodes[STAGE.key].state


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cluster, Cluster]:
    # Both have this process, whose death would free the leases.
    monkeypatch.setattr(claims, "LOOK_AGAIN_S", 0.0)
    return Cluster(str(tmp_path / "store"), "one"), Cluster(str(tmp_path / "store"), "two")


def test_stage_that_another_cluster_runs_waits_and_then_finds_its_artifact(
    pair: tuple[Cluster, Cluster],
) -> None:
    one, two = pair
    assert one.start()
    assert not two.start()
    node = two.board.nodes[STAGE.key]
    assert (two.state, node.cause, node.attempts) == ("planned", "one runs it", 0)
    put(one.store, STAGE)
    record = one.store.record(STAGE)
    one.board.finish(STAGE.key, record)
    assert not two.start(), "the artifact counts, whoever has the lease"
    assert two.state == "cached"
    asyncio.run(one.claims.keep())
    asyncio.run(two.claims.keep())
    assert one.store.files.find(".leases") == {}


def test_stage_that_failed_elsewhere_is_free(pair: tuple[Cluster, Cluster]) -> None:
    one, two = pair
    assert one.start()
    one.board.fail(STAGE.key, "ArithmeticError: no")
    assert not two.start()
    asyncio.run(one.claims.keep())
    assert two.start()


def test_cluster_that_ends_leaves_its_stages_to_others(pair: tuple[Cluster, Cluster]) -> None:
    one, two = pair
    assert one.start()
    asyncio.run(one.claims.keep())
    assert not two.start()
    asyncio.run(one.claims.give_back())
    assert two.start()


def test_leases_are_renewed_long_before_they_expire(
    pair: tuple[Cluster, Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    assert one.start()
    (name,) = one.store.files.names(".leases")
    file = Path(one.store.root) / ".leases" / name
    file.write_bytes(b"")
    asyncio.run(one.claims.keep())
    assert file.read_bytes() == b""
    monkeypatch.setattr(one.claims, "_renewed", -claims.EXPIRES_S / 3)
    asyncio.run(one.claims.keep())
    assert b'"owner": "one"' in file.read_bytes()


def test_store_that_takes_no_leases_stops_nothing(pair: tuple[Cluster, Cluster]) -> None:
    one, _ = pair
    Path(one.store.root).mkdir()
    (Path(one.store.root) / ".leases").write_text("a file where the folder should be")
    assert one.start()
