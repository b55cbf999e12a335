import json
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.events import CurvePoint
from sweeps.manifest import MANIFEST_FILE
from sweeps.records import MAX_CURVE_POINTS, thinned
from sweeps.store import ArtifactStore
from sweeps.worker import run_stage
from tests.stores import Item, put, python, record
from tests.toys import Number, Sum
from w2s.errors import StoreError
from w2s.stages.base import Stage


def text(store: ArtifactStore, stage: Stage) -> str:
    return (store.local(stage) / "item.txt").read_text()


def files(store: ArtifactStore) -> list[str]:
    """Everything in a store but what is hidden."""
    return sorted(path for path in store.files.find("") if not path.startswith("."))


def test_committed_artifact_is_read_back_with_its_record(any_store: ArtifactStore) -> None:
    stage = Item(value=3)
    assert not any_store.has(stage)
    put(any_store, stage)
    assert any_store.has(stage)
    folder = any_store.local(stage)
    assert (folder / "item.txt").read_text() == "text"
    assert (folder / "deep" / "more.txt").read_text() == "more"
    found = any_store.record(stage)
    assert (found.key, found.wall_s, found.host) == (stage.key, 2.5, "here")
    assert found.identity == stage.identity()
    assert found.location == any_store.location(stage)
    assert any_store.find(stage.key[:6]) == found
    assert any_store.find("0" * 16) is None


def test_what_one_process_commits_another_reads(any_store: ArtifactStore, tmp_path: Path) -> None:
    other = ArtifactStore(any_store.root, cache=str(tmp_path / "elsewhere"))
    assert other.present([Item(value=3)]) == set()
    put(any_store, Item(value=3))
    assert other.has(Item(value=3))
    assert text(other, Item(value=3)) == "text"


def test_present_names_the_keys_that_are_there(any_store: ArtifactStore) -> None:
    assert any_store.present([Item(value=1)]) == set()
    put(any_store, Item(value=1))
    put(any_store, Item(value=2))
    stages = [Item(value=1), Item(value=2), Item(value=3), Sum(tag="x")]
    assert any_store.present(stages) == {stages[0].key, stages[1].key}
    many = [Item(value=value) for value in range(100)]
    assert any_store.present(many) == {stages[0].key, stages[1].key}


def test_first_commit_wins(any_store: ArtifactStore) -> None:
    put(any_store, Item(value=3), "first")
    put(any_store, Item(value=3), "second")
    assert text(any_store, Item(value=3)) == "first"


def between(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something at the last moment before a commit counts."""
    if store.is_local:
        rename = Path.rename

        def renaming(path: Path, target: Path) -> Path:
            monkeypatch.setattr(Path, "rename", rename)
            act()
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", renaming)
    else:
        create = store.files.create

        def creating(path: str, data: bytes) -> bool:
            act()
            return create(path, data)

        monkeypatch.setattr(store.files, "create", creating)


def test_of_two_commits_at_the_same_time_one_stays_and_nothing_is_mixed(
    any_store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Item(value=3)
    other = ArtifactStore(any_store.root, cache=str(tmp_path / "elsewhere"))
    between(any_store, monkeypatch, lambda: put(other, stage, "theirs", theirs="1"))
    put(any_store, stage, "mine", mine="1")
    for store in (any_store, other, ArtifactStore(any_store.root, cache=str(tmp_path / "third"))):
        folder = store.local(stage)
        assert (folder / "item.txt").read_text() == "theirs"
        names = {path.name for path in folder.iterdir()} - {MANIFEST_FILE}
        assert names == {"item.txt", "deep", "theirs", "stage.json"}
    assert not [path for path in files(any_store) if path.endswith("/mine")]


def test_upload_that_is_killed_before_its_manifest_is_no_artifact(s3: str, tmp_path: Path) -> None:
    root = f"{s3}/{uuid.uuid4().hex}"
    script = (
        "store = ArtifactStore(sys.argv[1], cache=sys.argv[2])\n"
        "store.files.create = lambda path, data: os.kill(os.getpid(), 9)\n"
        "put(store, Item(value=3), 'killed')"
    )
    process = python(script, root, str(tmp_path / "killed"))
    assert process.wait() == -signal.SIGKILL
    store = ArtifactStore(root, cache=str(tmp_path / "cache"))
    assert [path for path in files(store) if path.endswith("/item.txt")]
    assert not store.has(Item(value=3))
    assert store.present([Item(value=3)]) == set()
    put(store, Item(value=3), "whole")
    assert text(ArtifactStore(root, cache=str(tmp_path / "new")), Item(value=3)) == "whole"


def test_request_that_was_answered_and_sent_again_keeps_its_artifact(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(f"{s3}/{uuid.uuid4().hex}", cache=str(tmp_path / "cache"))
    create = store.files.create
    # The answer to the first was lost: the file is there when the second arrives.
    monkeypatch.setattr(
        store.files, "create", lambda path, data: create(path, data) and create(path, data)
    )
    put(store, Item(value=3), "mine")
    assert text(ArtifactStore(store.root, cache=str(tmp_path / "new")), Item(value=3)) == "mine"


def break_off(store: ArtifactStore, stage: Stage, resume: bool) -> None:
    with store.workspace(stage, resume=resume) as folder:
        (folder / "half.txt").write_text("half")
        raise ZeroDivisionError


def test_block_that_raises_leaves_nothing(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError):
        break_off(store, Item(value=3), resume=False)
    assert not store.has(Item(value=3))
    assert [path for path in Path(store.root).rglob("*") if path.is_file()] == []


def test_folder_without_manifest_is_no_artifact_and_gives_way_to_one(store: ArtifactStore) -> None:
    stage = Item(value=3)
    leftover = Path(store.location(stage))
    leftover.mkdir(parents=True)
    (leftover / "item.txt").write_text("half")
    assert not store.has(stage)
    assert store.present([stage]) == set()
    put(store, stage)
    assert text(store, stage) == "text"
    (broken,) = (Path(store.root) / ".broken").iterdir()
    assert (broken / "item.txt").read_text() == "half"


def test_artifact_is_found_under_an_earlier_name(any_store: ArtifactStore, tmp_path: Path) -> None:
    stage = Item(value=3)
    put(any_store, stage)
    assert any_store.files.url("item/item-3-" + stage.key) == any_store.location(stage)
    for path in any_store.files.find(f"item/item-3-{stage.key}"):
        data = any_store.files.read(f"item/item-3-{stage.key}/{path}")
        any_store.files.write(f"item/old-name-{stage.key}/{path}", data)
    any_store.files.remove_tree(f"item/item-3-{stage.key}")
    store = ArtifactStore(any_store.root, cache=str(tmp_path / "new"))
    assert store.has(stage)
    assert store.present([stage]) == {stage.key}
    assert text(store, stage) == "text"


def test_names_of_stages_stay_in_the_store(store: ArtifactStore) -> None:
    class Escaping(Item):
        @property
        def name(self) -> str:
            return "../../../etc/.x\n\\y"

    stage = Escaping(value=1)
    put(store, stage)
    assert store.location(stage) == f"{store.root}/escaping/etc-.x-y-{stage.key}"
    assert {path.name for path in Path(store.root).iterdir()} == {".tmp", "escaping"}


def test_resumed_workspace_keeps_the_files_of_a_failed_attempt(store: ArtifactStore) -> None:
    stage = Item(value=3)
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
    stage = Item(value=3)
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


def test_bucket_that_is_not_there_is_refused(s3: str) -> None:
    with pytest.raises(StoreError, match="cannot write the store 's3://nosuch/x'"):
        ArtifactStore("s3://nosuch/x").check_writable()


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match="cannot open the store 'nosuch://x'"):
        ArtifactStore("nosuch://x")


def test_stores_of_the_same_name_keep_their_journals_apart(tmp_path: Path) -> None:
    one, two = (
        ArtifactStore(f"memory://{name}/w2s", cache=str(tmp_path)) for name in ("one", "two")
    )
    assert one.local_dir.name.startswith("w2s-")
    assert one.local_dir != two.local_dir
    here = ArtifactStore(str(tmp_path / "store"))
    assert here.local_dir == tmp_path / "store"


def test_leftovers_of_killed_processes_are_removed_and_no_others(store: ArtifactStore) -> None:
    script = (
        "context = ArtifactStore(sys.argv[1]).workspace(Item(value=3))\n"
        "(context.__enter__() / 'half').write_text(''); os.kill(os.getpid(), 9)"
    )
    assert python(script, store.root).wait() == -signal.SIGKILL
    with store.workspace(Item(value=4)) as mine:
        assert len(list((Path(store.root) / ".tmp").iterdir())) == 2
        store.clear_scratch()
        assert list((Path(store.root) / ".tmp").iterdir()) == [mine]


def test_counts_and_the_beginning_of_a_key_find_what_is_stored(store: ArtifactStore) -> None:
    stages = [Item(value=value) for value in range(20)]
    assert store.counts() == {}
    assert store.find(stages[0].key) is None
    for stage in stages:
        assert run_stage(stage, store).record
    assert store.counts() == {"item": 20}
    found = store.find(stages[3].key[:12])
    assert found is not None
    assert found.key == stages[3].key
    with pytest.raises(StoreError, match="20 keys begin with ''"):
        store.find("")


def test_checkpoints_are_handed_on_and_the_newest_whole_one_counts(
    any_store: ArtifactStore, tmp_path: Path
) -> None:
    stage = Item(value=3)
    other = ArtifactStore(any_store.root, cache=str(tmp_path / "elsewhere"))
    assert not other.load_partial(stage, tmp_path / "none")
    for step in (1, 2, 10):
        with any_store.scratch("checkpoint") as folder:
            (folder / "state.json").write_text(json.dumps(step))
            (folder / "model.safetensors").write_bytes(bytes(step))
            any_store.save_partial(stage, folder)
            assert not folder.exists()
    assert other.load_partial(stage, tmp_path / "found")
    assert json.loads((tmp_path / "found" / "state.json").read_text()) == 10
    assert len((tmp_path / "found" / "model.safetensors").read_bytes()) == 10
    folders = any_store.files.names(f".partial/{stage.key}")
    assert [name[:9] for name in folders] == ["00000003-"]
    any_store.drop_partial(stage)
    assert not other.load_partial(stage, tmp_path / "gone")
    assert not any_store.has(stage)


@pytest.mark.parametrize("damage", ["no manifest", "flipped", "cut off", "pickle"])
def test_checkpoint_that_is_not_whole_gives_way_to_the_one_before(
    any_store: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    stage = Item(value=3)
    save(any_store, stage, 1, tmp_path)
    (kept,) = any_store.files.names(f".partial/{stage.key}")
    older = {
        path: any_store.files.read(f".partial/{stage.key}/{kept}/{path}")
        for path in any_store.files.find(f".partial/{stage.key}/{kept}")
    }
    save(any_store, stage, 2, tmp_path)
    (newest,) = any_store.files.names(f".partial/{stage.key}")
    for path, data in older.items():
        any_store.files.write(f".partial/{stage.key}/{kept}/{path}", data)
    at = f".partial/{stage.key}/{newest}"
    if damage == "no manifest":
        any_store.files.remove(f"{at}/{MANIFEST_FILE}")
    elif damage == "flipped":
        any_store.files.write(f"{at}/state.json", b"3")
    elif damage == "cut off":
        any_store.files.write(f"{at}/state.json", b"")
    else:
        manifest = json.loads(any_store.files.read(f"{at}/{MANIFEST_FILE}"))
        manifest["files"]["state.pt"] = manifest["files"].pop("state.json")
        any_store.files.write(f"{at}/{MANIFEST_FILE}", json.dumps(manifest).encode())
        any_store.files.write(f"{at}/state.pt", b"2")
    assert any_store.load_partial(stage, tmp_path / "found")
    assert (tmp_path / "found" / "state.json").read_text() == "1"


def save(store: ArtifactStore, stage: Stage, step: int, tmp_path: Path) -> None:
    folder = tmp_path / f"step{step}"  # on another file system than the scratch folder, perhaps
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(step))
    store.save_partial(stage, folder)


def test_importing_the_store_brings_no_engine() -> None:
    process = python("assert not {'torch', 'ray', 'mlflow', 'vllm'} & sys.modules.keys()")
    out, _ = process.communicate()
    assert process.returncode == 0, out
