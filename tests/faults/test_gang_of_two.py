"""A gang of two real workers of which one is killed while both are in a collective."""

import os
import signal
from pathlib import Path

import pytest

from sweeps.broker import start_broker
from sweeps.resources import Execution, GangShape
from sweeps.store import ArtifactStore
from tests.faults.sweeping import wait_for
from tests.toys import Together

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def attempts(log: Path) -> dict[int, list[int]]:
    """Process ids by rank, in the order of the attempts."""
    found: dict[int, list[int]] = {0: [], 1: []}
    for line in log.read_text().splitlines() if log.exists() else []:
        rank, process = line.split()
        found[int(rank)].append(int(process))
    return found


def test_stage_of_a_gang_that_lost_one_of_two_runs_again_on_both(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    log, gate = tmp_path / "log", tmp_path / "gate"
    stage = Together(log=str(log), gate=str(gate))
    shape = GangShape(num_workers=2)
    with start_broker(Execution(store=store.root, shape=shape)) as client:
        number = client.ask([stage])
        wait_for(lambda: any(s.step > 3 for s in client.snapshot().running), "a few steps")
        os.kill(attempts(log)[1][0], signal.SIGKILL)
        wait_for(lambda: all(len(ids) == 2 for ids in attempts(log).values()), "both again")
        gate.write_text("")
        client.wait(number)
        assert store.has(stage)
        # No process of the first attempt takes part in the second.
        assert all(len(set(ids)) == 2 for ids in attempts(log).values())
        states = [event.state for event in client.events() if event.key == stage.key]
        assert states == ["done"]
