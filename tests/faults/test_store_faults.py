"""Sweeps over stores that are damaged, remote, or shared by two clusters."""

import re
import shutil
from pathlib import Path

import pytest

from sweeps.archive import import_archive
from sweeps.store import ArtifactStore
from sweeps.upkeep import damages
from tests.faults.sweeping import (
    TINY,
    Run,
    artifacts,
    long_fault,
    names,
    same_results,
    starts,
    store_of,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LONG_S = 900.0
"""Bounds a sweep that is made again in part, or shares the machine with another one."""


def counts(printed: str) -> tuple[int, int]:
    """Stages that ran and that were cached, as the command says at its end."""
    found = re.search(r"(\d+) stages ran, (\d+) were cached", printed)
    assert found, printed
    return int(found.group(1)), int(found.group(2))


def folder_of(store: Path, name: str) -> Path:
    (key,) = [key for key, stage in names().items() if stage == name]
    return artifacts(store)[key]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_every_damage_on_the_way_to_a_result_is_found_and_only_that_is_made_again(
    tmp_path: Path, undisturbed: Path
) -> None:
    store = store_of(tmp_path)
    shutil.copytree(undisturbed, store)
    before = starts(store)
    student = "finetune-64x2-almanac-weak-xent-s0"
    teacher = "finetune-32x2-almanac-truth-xent-s0"
    flip(folder_of(store, f"evaluate-{student}") / "rows.parquet")
    flip(folder_of(store, student) / "predictions.parquet")
    predictions = folder_of(store, teacher) / "predictions.parquet"
    predictions.write_bytes(predictions.read_bytes()[:-1])
    (folder_of(store, "tokens-32x2-almanac") / "manifest.json").unlink()
    (folder_of(store, "prompts-almanac") / "surprise.bin").write_text("foreign")
    with Run(tmp_path) as run:
        assert run.finish(LONG_S) == 0, run.printed
        run.assert_nothing_left()
    said = rf"evaluate-{student} \([0-9a-f]{{16}}\) is damaged: rows.parquet"
    assert re.search(said, run.printed), run.printed
    same_results(store, undisturbed)
    after = starts(store)
    again = {names()[key] for key, started in before.items() if after[key] != started}
    assert again == {f"evaluate-{student}", student, teacher, "tokens-32x2-almanac"}
    assert damages(ArtifactStore(str(store))).damages == ()
    broken = {path.name.rpartition("-")[0] for path in (store / ".broken").iterdir()}
    assert "surprise.bin" in broken
    assert len(broken) == 5


@long_fault
def test_sweep_over_s3_outlives_its_driver_and_equals_one_in_a_folder(
    tmp_path: Path, undisturbed: Path, s3: str
) -> None:
    url = f"{s3}/{tmp_path.name}"
    home = {"HOME": str(tmp_path / "home")}
    command = ("run", str(TINY), "--plain", f"--set=runtime.store={url}")
    store = ArtifactStore(url, cache=str(tmp_path / "cache"))
    with Run(tmp_path, *command, environment=home) as run:
        run.read_until(" done: ", LONG_S)
        run.popen.kill()
        run.popen.wait()
        run.assert_nothing_left()
    left = len(store.places())
    assert 0 < left < len(names())
    with Run(tmp_path, *command, environment=home) as run:
        assert run.finish(LONG_S) == 0, run.printed
        run.assert_nothing_left()
    ran, cached = counts(run.printed)
    assert ran + cached == len(names())
    assert cached >= left
    with Run(tmp_path, *command, environment=home) as run:
        assert run.finish(LONG_S) == 0, run.printed
    assert "everything is cached" in run.printed
    assert damages(store).damages == ()
    # Weights, predictions and scores, byte by byte.
    export = ("store", "export", "tiny", "--store", url)
    with Run(tmp_path, *export, environment=home) as run:
        assert run.finish(LONG_S) == 0, run.printed
    import_archive(ArtifactStore(str(tmp_path / "taken")), tmp_path / "tiny.tar")
    same_results(tmp_path / "taken", undisturbed)


@long_fault
def test_two_clusters_on_one_store_make_each_stage_once_between_them(
    tmp_path: Path, undisturbed: Path
) -> None:
    store = tmp_path / "store"
    command = ("run", str(TINY), "--plain", f"--set=runtime.store={store}")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with Run(tmp_path / "one", *command) as one, Run(tmp_path / "two", *command) as two:
        assert one.finish(LONG_S) == 0, one.printed
        assert two.finish(LONG_S) == 0, two.printed
        one.assert_nothing_left()
        two.assert_nothing_left()
    same_results(store, undisturbed)
    assert damages(ArtifactStore(str(store))).damages == ()
    assert counts(one.printed)[0] + counts(two.printed)[0] == len(names())
    assert list((store / ".leases").iterdir()) == []
