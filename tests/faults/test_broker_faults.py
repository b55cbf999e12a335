"""The broker, a trial, the driver or the head of the cluster is killed in the middle of a sweep."""

import re
from pathlib import Path

import psutil
import pytest

from tests.faults.sweeping import (
    PATIENCE_S,
    Run,
    long_fault,
    names,
    rerun_only,
    running,
    same_results,
    starts,
    store_of,
    workspaces,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


def counts(printed: str) -> tuple[int, int]:
    """Stages that ran and that were cached, as the command says at its end."""
    found = re.search(r"(\d+) stages ran, (\d+) were cached", printed)
    assert found, printed
    return int(found.group(1)), int(found.group(2))


def wait_until_running(run: Run, folder: Path, name: str) -> None:
    left = workspaces(store_of(folder))
    run.wait_for(lambda: running(store_of(folder), name, left), f"a run of {name}")


@long_fault
def test_sweep_outlives_its_broker_and_its_trial(tmp_path: Path, undisturbed: Path) -> None:
    with Run(tmp_path) as run:
        wait_until_running(run, tmp_path, "pretrain-64x2")
        before = starts(store_of(tmp_path))
        workers = run.processes("ray::RayTrainWorker")
        assert workers
        run.kill("ray::StageBroker")
        psutil.wait_procs(workers, timeout=PATIENCE_S)
        assert not any(worker.is_running() for worker in workers)
        run.read_until("pretrain done")
        run.kill("ray::ImplicitFunc")
        assert run.finish() == 0, run.printed
        rerun_only(before, starts(store_of(tmp_path)))
        assert "noticed: the stage broker died once; the next one went on" in run.printed
        assert "Traceback" not in run.printed
        assert counts(run.printed) == (len(names()), 0)
        run.assert_nothing_left()
    same_results(store_of(tmp_path), undisturbed)


@long_fault
def test_killed_driver_and_killed_head_leave_nothing_running_and_the_next_run_goes_on(
    tmp_path: Path, undisturbed: Path
) -> None:
    store = store_of(tmp_path)
    with Run(tmp_path) as run:
        wait_until_running(run, tmp_path, "pretrain-32x2")
        run.popen.kill()
        run.assert_nothing_left()
    kept = starts(store)
    for victim in ("gcs/gcs_server", "raylet/raylet"):
        with Run(tmp_path) as run:
            # The stage that runs for the longest: whoever is killed then has work to lose.
            wait_until_running(run, tmp_path, "pretrain-64x2")
            kept = starts(store)
            run.kill(victim)
            assert run.finish() == 1, run.printed
            assert run.printed.count("the Ray cluster is gone") == 1
            assert f"its {victim.rpartition('/')[2]} has died" in run.printed
            assert "Traceback" not in run.printed
            run.assert_nothing_left()
        rerun_only(kept, starts(store))
        kept = starts(store)
    with Run(tmp_path) as run:
        assert run.finish() == 0, run.printed
        ran, cached = counts(run.printed)
        assert (ran + cached, cached) == (len(names()), len(kept))
        run.assert_nothing_left()
    rerun_only(kept, starts(store))
    same_results(store, undisturbed)
