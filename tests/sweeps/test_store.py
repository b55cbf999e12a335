import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sweeps.events import CurvePoint, StageRecord
from sweeps.manifest import MANIFEST_FILE
from sweeps.records import MAX_CURVE_POINTS, thinned
from sweeps.store import ArtifactStore
from sweeps.worker import run_stage
from tests.toys import Number, Sum, read
from w2s.errors import StoreError


@pytest.fixture(params=["local", "file", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = {
        "local": str(tmp_path / "store"),
        "file": f"file://{tmp_path}/store",
        "memory": f"memory://{uuid.uuid4().hex}",
    }
    return ArtifactStore(root[request.param], cache=str(tmp_path / "cache"))


def record(stage: Number | Sum, curve: tuple[CurvePoint, ...] = ()) -> StageRecord:
    return StageRecord(
        key=stage.key,
        name=stage.name,
        kind=stage.kind,
        identity=stage.identity(),
        started=10.0,
        finished=12.5,
        host="here",
        curve=curve,
    )


def put(store: ArtifactStore, stage: Number, text: str = '{"value": 3}') -> None:
    with store.workspace(stage) as folder:
        (folder / "number.json").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "more.txt").write_text("more")
        store.commit(stage, folder, record(stage))


def test_committed_artifact_is_read_back_with_its_record(any_store: ArtifactStore) -> None:
    stage = Number(value=3)
    assert not any_store.has(stage)
    put(any_store, stage)
    assert any_store.has(stage)
    folder = any_store.local(stage)
    assert read(folder) == 3
    assert (folder / "deep" / "more.txt").read_text() == "more"
    found = any_store.record(stage)
    assert (found.key, found.wall_s, found.host) == (stage.key, 2.5, "here")
    assert found.identity == stage.identity()
    assert any_store.find(stage.key[:6]) == found
    assert any_store.find("0" * 16) is None


def test_present_names_the_keys_that_are_there(any_store: ArtifactStore) -> None:
    assert any_store.present([Number(value=1)]) == set()
    put(any_store, Number(value=1))
    put(any_store, Number(value=2))
    stages = [Number(value=1), Number(value=2), Number(value=3), Sum(tag="x")]
    assert any_store.present(stages) == {stages[0].key, stages[1].key}


def test_first_commit_wins(any_store: ArtifactStore) -> None:
    put(any_store, Number(value=3), '{"value": 3}')
    put(any_store, Number(value=3), '{"value": 4}')
    assert read(any_store.local(Number(value=3))) == 3


def break_off(store: ArtifactStore, stage: Number, resume: bool) -> None:
    with store.workspace(stage, resume=resume) as folder:
        (folder / "half.txt").write_text("half")
        raise ZeroDivisionError


def test_block_that_raises_leaves_nothing(store: ArtifactStore) -> None:
    stage = Number(value=3)
    with pytest.raises(ZeroDivisionError):
        break_off(store, stage, resume=False)
    assert not store.has(stage)
    assert [path for path in Path(store.root).rglob("*") if path.is_file()] == []


def test_folder_without_manifest_is_no_artifact_and_gives_way_to_one(store: ArtifactStore) -> None:
    stage = Number(value=3)
    leftover = Path(store.location(stage))
    leftover.mkdir(parents=True)
    (leftover / "number.json").write_text("half")
    assert not store.has(stage)
    assert store.present([stage]) == set()
    put(store, stage)
    assert read(store.local(stage)) == 3


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_damaged_file_is_an_error_that_names_the_stage(
    any_store: ArtifactStore, damage: str, tmp_path: Path
) -> None:
    stage = Number(value=3)
    put(any_store, stage)
    path = next(path for path in any_store.files.find("number") if path.endswith("number.json"))
    if damage == "truncate":
        any_store.files.write(f"number/{path}", b"{")
    else:
        any_store.files.remove(f"number/{path}")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    with pytest.raises(StoreError, match=rf"number 3 \({stage.key}\) is damaged: (number.json|a file)"):
        any_store.local(stage)


def test_missing_artifact_is_an_error_that_names_the_stage(store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="stage number 3 .* is damaged: manifest.json is missing"):
        store.local(Number(value=3))


def test_artifact_is_found_under_an_earlier_name(store: ArtifactStore) -> None:
    stage = Number(value=3)
    put(store, stage)
    folder = Path(store.location(stage))
    folder.rename(folder.with_name(f"old-name-{stage.key}"))
    assert store.has(stage)
    assert read(store.local(stage)) == 3


def test_resumed_workspace_keeps_the_files_of_a_failed_attempt(store: ArtifactStore) -> None:
    stage = Number(value=3)
    with pytest.raises(ZeroDivisionError):
        break_off(store, stage, resume=True)
    assert not store.has(stage)
    with store.workspace(stage, resume=True) as folder:
        assert (folder / "half.txt").read_text() == "half"
        with store.workspace(stage, resume=True) as other:
            assert other != folder
            assert list(other.iterdir()) == []
        store.commit(stage, folder, record(stage))
    assert (store.local(stage) / "half.txt").exists()
    assert list((Path(store.root) / ".tmp").iterdir()) == []


def test_record_keeps_a_thinned_curve_and_the_file_keeps_all(store: ArtifactStore) -> None:
    stage = Number(value=3)
    curve = tuple(CurvePoint(step, 2000, {"loss": 1 / step}, 0.0) for step in range(1, 2001))
    with store.workspace(stage) as folder:
        store.commit(stage, folder, record(stage, curve))
    found = store.record(stage).curve
    assert len(found) == MAX_CURVE_POINTS
    assert found[-1] == curve[-1]
    lines = (store.local(stage) / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2000
    assert thinned(list(curve[:3])) == curve[:3]


def test_stage_file_says_what_was_computed_from_what_with_what(store: ArtifactStore) -> None:
    source = Number(value=1)
    stage = Sum(inputs_=(source,), tag="a")
    for each in (source, stage):
        assert run_stage(each, store).record is not None
    facts = json.loads((store.local(stage) / "stage.json").read_text())
    assert facts["inputs"] == {source.key: "number 1"}
    assert facts["identity"]["inputs_"] == [{"key": source.key}]
    assert facts["packages"]["torch"]
    manifest = json.loads((store.local(stage) / MANIFEST_FILE).read_text())
    assert set(manifest["files"]) == {"number.json", "stage.json", "metrics.jsonl"}


def test_store_below_a_file_is_refused_with_path_and_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write the store '.*/file/store'.*you can write"):
        ArtifactStore(str(tmp_path / "file" / "store")).check_writable()


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match="cannot open the store 'nosuch://x'"):
        ArtifactStore("nosuch://x")


def test_leftovers_of_killed_processes_are_removed_and_no_others(store: ArtifactStore) -> None:
    script = (
        "import os, sys; from sweeps.store import ArtifactStore; from tests.toys import Number;"
        "store = ArtifactStore(sys.argv[1]); context = store.workspace(Number(value=3));"
        "(context.__enter__() / 'half').write_text(''); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, store.root]
    subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": "."})
    with store.workspace(Number(value=4)) as mine:
        assert len(list((Path(store.root) / ".tmp").iterdir())) == 2
        store.clear_scratch()
        assert list((Path(store.root) / ".tmp").iterdir()) == [mine]


def test_counts_and_the_beginning_of_a_key_find_what_is_stored(store: ArtifactStore) -> None:
    stages = [Number(value=value) for value in range(20)]
    assert store.counts() == {}
    assert store.find(stages[0].key) is None
    for stage in stages:
        assert run_stage(stage, store).record
    assert store.counts() == {"number": 20}
    record = store.find(stages[3].key[:12])
    assert record is not None
    assert record.key == stages[3].key
    with pytest.raises(StoreError, match="20 keys begin with ''"):
        store.find("")
