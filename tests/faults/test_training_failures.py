"""Trainings that are killed in the middle of a step, or take too long: they go on, bit by bit.

A real sweep of ten stages each time, with checkpoints every fraction of a second, compared with one
during which nothing happened.
"""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.sweeping import (
    TINY,
    Run,
    artifacts,
    rerun_only,
    same_results,
    starts,
    store_of,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.ray]

OFTEN = (
    "run",
    str(TINY),
    "--plain",
    "--set=runtime.train.checkpoint_s=0.2",
    # One at a time: the stage that has a checkpoint is the one that a kill meets.
    "--set=runtime.train.max_gangs=1",
)
PATIENT_S = 1200.0
"""Bounds every wait; measures nothing."""


def kept(store: Path) -> set[str]:
    """Keys of the stages that have a whole checkpoint now, with a point of the curve in it."""
    found: set[str] = set()
    for manifest in store.glob(".partial/*/*/manifest.json"):
        with suppress(FileNotFoundError):  # a newer one took its place, or the stage is done
            if json.loads((manifest.parent / "state.json").read_text())["extra"]:
                found.add(manifest.parts[-3])
    return found


def in_training(run: Run, store: Path, but: set[str]) -> str:
    """Wait until a stage that is not one of some has a checkpoint; returns its key."""
    found: set[str] = set()

    def has_one() -> bool:
        found.update(kept(store) - but)
        assert run.popen.poll() is None, f"it ended: {run.finish()}\n{run.printed}"
        return bool(found)

    wait_for(has_one, "a checkpoint", PATIENT_S)
    return found.pop()


def went_on(folder: Path) -> bool:
    """Whether the attempt that left an artifact began in the middle: its curve is older."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[0])["time"] < json.loads((folder / "stage.json").read_text())["started"]


def steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_killed_worker_and_killed_controller_cost_no_step(
    undisturbed: Path, tmp_path: Path
) -> None:
    store = store_of(tmp_path)
    with Run(tmp_path, *OFTEN) as run:
        first = in_training(run, store, set())
        before = starts(store)
        run.kill("ray::RayTrainWorker")
        wait_for(lambda: first in artifacts(store), "the stage of the killed worker", PATIENT_S)
        second = in_training(run, store, {first})
        for controller in run.processes("ray::TrainController"):
            controller.kill()
        assert run.finish(PATIENT_S) == 0, run.printed
        run.assert_nothing_left()
    same_results(store, undisturbed)
    rerun_only(before, starts(store))
    for key in (first, second):
        assert went_on(artifacts(store)[key])
        assert steps(artifacts(store)[key]) == steps(artifacts(undisturbed)[key])
    assert list(store.glob(".partial/*/*/manifest.json")) == []


def test_training_that_takes_too_long_fails_and_goes_on_in_the_next_run(
    undisturbed: Path, tmp_path: Path
) -> None:
    store = store_of(tmp_path)
    with Run(tmp_path, *OFTEN, "--set=runtime.stage_timeout_s=2") as run:
        assert run.finish(PATIENT_S) == 1, run.printed
    assert "StageTimeout: not done after 2 s: raise `runtime.stage_timeout_s`" in run.printed
    assert "Traceback" not in run.printed
    unfinished = kept(store)
    assert unfinished
    before = starts(store)
    with Run(tmp_path, *OFTEN) as run:
        assert run.finish(PATIENT_S) == 0, run.printed
    same_results(store, undisturbed)
    rerun_only(before, starts(store))
    assert all(went_on(artifacts(store)[key]) for key in unfinished)
