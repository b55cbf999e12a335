"""Two clusters on one store: who runs a stage."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from sweeps.leases import Lease
from sweeps.store import ArtifactStore
from tests.stores import Item, python

STAGE = Item(value=3)
WRITERS = 8


def test_one_of_many_gets_the_lease_and_the_others_learn_who_has_it(
    any_store: ArtifactStore,
) -> None:
    if not any_store.files.creates_once:
        pytest.skip("this file system promises no first writer")
    barrier = Barrier(WRITERS)

    def take(number: int) -> Lease:
        lease = Lease(any_store, STAGE, owner=f"cluster {number}")
        barrier.wait()
        taken = lease.take()
        assert taken == (not lease.holder)
        return lease

    with ThreadPoolExecutor(WRITERS) as pool:
        leases = list(pool.map(take, range(WRITERS)))
    (winner,) = [lease for lease in leases if not lease.holder]
    late = Lease(any_store, STAGE, owner="late")
    assert not late.take()
    assert late.holder == f"cluster {leases.index(winner)}"
    assert Lease(any_store, Item(value=4), owner="late").take()


def test_lease_that_is_given_back_is_free(any_store: ArtifactStore) -> None:
    one, two = (Lease(any_store, STAGE, owner=name) for name in ("one", "two"))
    assert one.take()
    assert not two.take()
    one.release(done=False)
    assert two.take()
    assert two.renew()
    two.release(done=True)
    assert any_store.files.names(".leases") == []
    one.release(done=False)
    assert one.take()


def test_abandoned_lease_is_taken_over_by_one_and_its_holder_learns_it(
    any_store: ArtifactStore,
) -> None:
    if not any_store.files.creates_once:
        pytest.skip("this file system promises no first writer")
    sleeper = Lease(any_store, STAGE, owner="sleeper")
    assert sleeper.take()
    # Every lease is older than this.
    others = [Lease(any_store, STAGE, f"other {n}", expires_s=-1e9) for n in range(WRITERS)]
    barrier = Barrier(WRITERS)
    highest = Lease._highest

    def seen(lease: Lease) -> int:
        found = highest(lease)
        barrier.wait(60)
        return found

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(WRITERS) as pool:
        patch.setattr(Lease, "_highest", seen)
        taken = list(pool.map(Lease.take, others))
    assert sum(taken) == 1
    assert not sleeper.renew()
    assert sleeper.holder == f"other {taken.index(True)}"
    sleeper.release(done=False)
    assert others[taken.index(True)].renew()


def test_renewing_keeps_a_lease_and_age_is_by_the_clock_of_the_store(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = (Lease(store, STAGE, owner, expires_s=600) for owner in ("holder", "other"))
    monkeypatch.setattr("sweeps.leases._own_mark", lambda pid: "")
    assert holder.take()
    monkeypatch.setattr(time, "time", lambda: 1e10)
    assert not other.take()
    file = Path(store.root) / ".leases" / f"{STAGE.key}.1"
    hour_ago = file.stat().st_mtime - 3600
    os.utime(file, (hour_ago, hour_ago))
    assert holder.renew()
    assert not other.take()
    os.utime(file, (hour_ago, hour_ago))
    assert other.take()
    assert not holder.renew()


def test_lease_of_a_killed_process_is_free_at_once(store: ArtifactStore) -> None:
    script = (
        "from sweeps.leases import Lease\n"
        "assert Lease(ArtifactStore(sys.argv[1]), Item(value=3), 'first').take()\n"
        "print('taken', flush=True); sys.stdin.read()"
    )
    process = python(script, store.root)
    assert process.stdout
    assert process.stdout.readline() == "taken\n"
    lease = Lease(store, STAGE, owner="second")
    assert not lease.take()
    assert lease.holder == "first"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert lease.take()


def test_cluster_takes_its_own_lease_again_after_its_broker_died(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.leases._own_mark", lambda pid: "")
    assert Lease(store, STAGE, owner="cluster").take()
    assert not Lease(store, STAGE, owner="other").take()
    assert Lease(store, STAGE, owner="cluster").take()


def test_lease_whose_writer_was_killed_before_it_wrote_counts_until_it_is_old(
    store: ArtifactStore,
) -> None:
    file = Path(store.root) / ".leases" / f"{STAGE.key}.1"
    file.parent.mkdir(parents=True)
    file.write_text("")
    assert not Lease(store, STAGE, owner="other").take()
    os.utime(file, (0, 0))
    assert Lease(store, STAGE, owner="other").take()
    assert json.loads(file.with_suffix(".2").read_text())["owner"] == "other"
