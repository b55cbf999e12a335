"""Sweeps that join a cluster which is there: two at once, and one whose worker node dies."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.sweeping import (
    NO_TOKEN,
    ROOT,
    TINY,
    Cluster,
    Run,
    artifacts,
    names,
    rerun_only,
    running,
    same_results,
    starts,
    status,
    store_of,
    wait_for,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


def join(cluster: Cluster, folder: Path, store: Path, name: str) -> Run:
    """A sweep of this name over the shared store."""
    folder.mkdir()
    settings = [f"--set=runtime.store={store}", f"--set=name={name}"]
    arguments = ["run", str(TINY), "--plain", "--address", cluster.address, *settings]
    return Run(folder, *arguments, environment=NO_TOKEN)


def test_two_drivers_run_each_shared_stage_once_and_the_last_takes_the_broker_along(
    tmp_path: Path, undisturbed: Path
) -> None:
    store = store_of(tmp_path)
    with Cluster() as cluster, join(cluster, tmp_path / "one", store, "one") as one:
        one.wait_for(lambda: artifacts(store), "a first stage")
        with join(cluster, tmp_path / "two", store, "two") as two:
            assert two.finish() == 0, two.printed
            assert one.finish() == 0, one.printed
        wait_for(lambda: not cluster.processes("ray::StageBroker"), "the end of the broker")
        wait_for(lambda: not cluster.processes("ray::RayTrainWorker"), "the end of the gangs")
        trained = Counter(cluster.logged(r"key=([0-9a-f]{16}) running in gang"))
    wanted = (key for key, name in names().items() if name.startswith(("pretrain", "finetune")))
    assert trained == Counter(wanted)
    same_results(store, undisturbed)


WHERE = """
import ray
from sweeps.cluster import connect, on_head

class Actor:
    def node(self):
        return ray.get_runtime_context().get_node_id()

connect({address!r})
actors = [ray.remote(num_cpus=0)(Actor).options(resources=on_head()).remote() for _ in range(8)]
for node in ray.get([actor.node.remote() for actor in actors]):
    print("on", node)
print("head", *(n["NodeID"] for n in ray.nodes() if n["Resources"].get("CPU", 0) == 0))
"""


def test_actors_that_belong_on_the_head_are_put_there() -> None:
    with Cluster(num_cpus=0) as cluster:
        cluster.add_node()
        cluster.add_node()
        script = WHERE.format(address=cluster.address)
        printed = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **NO_TOKEN, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    (head,) = re.findall(r"^head (\w+)$", printed, re.M)
    assert re.findall(r"^on (\w+)$", printed, re.M) == [head] * 8


def test_sweep_completes_when_a_worker_node_dies_in_the_middle_of_a_stage(
    tmp_path: Path, undisturbed: Path
) -> None:
    store = store_of(tmp_path)
    # Gangs fit on the workers alone: the head has no CPU to give.
    with Cluster(num_cpus=0) as cluster:
        nodes = [cluster.add_node(), cluster.add_node()]
        with join(cluster, tmp_path / "run", store, "tiny") as run:
            run.wait_for(lambda: running(store, "finetune"), "a finetuning")
            before = starts(store)
            busy = next(n for n in nodes if cluster.processes("ray::RayTrainWorker", n))
            cluster.kill_node(busy)
            assert re.search(r"tiny runs on .*finetune", status(store), re.S)
            assert run.finish() == 0, run.printed
            assert "Traceback" not in run.printed
            assert "broker died" not in run.printed, "it sits on the head"
    assert "complete: `w2s run` would run nothing" in status(store)
    rerun_only(before, starts(store))
    same_results(store, undisturbed)
