"""Schedules on paper, worked by hand."""

from typing import Any

import pytest

from sweeps.simulate import Job, schedule


def job(key: str, seconds: float, *inputs: str, gpus: int = 1, **fields: Any) -> Job:
    return Job(key, key, "work", seconds, gpus=gpus, inputs=inputs, **fields)


def times(jobs: list[Job], gpus: int, cpus: int = 1) -> dict[str, tuple[float, float]]:
    played = schedule(jobs, gpus=gpus, cpus=cpus)
    return {key: (run.start, run.end) for key, run in played.runs.items()}


def test_the_longest_chain_goes_first() -> None:
    # One GPU; a chain of 1 + 5 s against a single 4 s job: the chain's head first, then its tail.
    found = times([job("single", 4), job("head", 1), job("tail", 5, "head")], gpus=1)
    assert found == {"head": (0, 1), "tail": (1, 6), "single": (6, 10)}


def test_jobs_share_the_cluster_as_far_as_it_goes() -> None:
    # Two GPUs, jobs of 3, 2 and 2 s: 3 and 2 begin, the last follows the 2; then the join.
    jobs = [job("a", 3), job("b", 2), job("c", 2), job("end", 1, "a", "b", "c")]
    played = schedule(jobs, gpus=2, cpus=1)
    assert {key: run.start for key, run in played.runs.items()} == {
        "a": 0,
        "b": 0,
        "c": 2,
        "end": 4,
    }
    assert played.makespan == 5
    assert played.computing == 8
    assert played.idle_share == pytest.approx(1 - 8 / 10)
    assert [run.job.key for run in played.critical_path()] == ["c", "end"]
    assert [run.waited for run in played.critical_path()] == [2, 0]


def test_a_gang_starts_once_and_a_model_is_loaded_where_it_is_not_held() -> None:
    # One GPU: 10 s to start, 2 s to load. x twice in a row, then y in the same gang.
    held: dict[str, Any] = {"load_s": 2.0, "start_s": 10.0}
    jobs = [
        job("x1", 5, model="x", **held),
        job("y", 4, model="y", **held),
        job("x2", 3, model="x", **held),
    ]
    played = schedule(jobs, gpus=1, cpus=1)
    # After x1, x2 counts (3 + 1) * 1.5 = 6 against y's 5: the gang holds x.
    assert {key: (run.start, run.end) for key, run in played.runs.items()} == {
        "x1": (0, 17),
        "x2": (17, 20),
        "y": (20, 26),
    }
    assert [key for key, run in played.runs.items() if run.new_gang] == ["x1"]
    assert played.starting == 10 + 2 + 2


def test_a_held_model_does_not_outweigh_a_chain_half_as_long_again() -> None:
    jobs = [job("x1", 50, model="x"), job("x2", 3, model="x"), job("y", 6, model="y")]
    found = times(jobs, gpus=1)
    # y counts 6 + 1 = 7, x2 counts (3 + 1) * 1.5 = 6.
    assert found["y"] == (50, 56)
    assert found["x2"] == (56, 59)


def test_a_large_job_keeps_its_place_and_small_ones_fill_the_wait() -> None:
    # Four GPUs. `first` has two until 10; `large` wants four and is next: it starts at 10.
    # `short` is over by then and goes before it; `long` is not and waits.
    jobs = [
        job("first", 10, gpus=2),
        job("large", 9, gpus=4),
        job("long", 8.5, "root", gpus=2),
        job("short", 4, "root", gpus=2, model="another"),
        job("root", 2, gpus=0),
    ]
    # Chains: root begins 10.5 s, first 10, large 9, long 8.5, short 4.
    found = times(jobs, gpus=4)
    assert found["root"] == (0, 2)
    assert found["first"] == (0, 10)
    assert found["short"] == (2, 6)
    assert found["large"] == (10, 19)
    assert found["long"] == (19, 27.5)


def test_idle_gangs_make_room_for_one_of_another_size() -> None:
    jobs = [
        job("a", 1, gpus=1, start_s=5.0),
        job("b", 1, "a", gpus=2, start_s=5.0),
        job("c", 1, "b", gpus=1, start_s=5.0),
    ]
    played = schedule(jobs, gpus=2, cpus=1)
    # Each time the idle gang goes, and another one starts.
    assert [run.end for run in played.runs.values()] == [6, 12, 18]
    assert played.most_gpus == 2


def test_jobs_without_gpus_take_cpus() -> None:
    found = times([job(name, 2, gpus=0) for name in ("a", "b", "c")], gpus=1, cpus=2)
    assert found == {"a": (0, 2), "b": (0, 2), "c": (2, 4)}


def test_nothing_to_run_takes_no_time() -> None:
    played = schedule([], gpus=4, cpus=1)
    assert (played.makespan, played.idle_share, played.critical_path()) == (0.0, 0.0, [])
