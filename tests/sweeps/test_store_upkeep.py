"""`w2s store`: what is damaged, what may go, and sweeps that move between stores."""

import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.archive import export, import_archive
from sweeps.cli import main
from sweeps.leases import Lease
from sweeps.manifest import MANIFEST_FILE
from sweeps.references import References, referred
from sweeps.store import ArtifactStore
from sweeps.upkeep import Garbage, damages, garbage, remove
from sweeps.worker import run_stage
from tests.stores import Item, put, python
from w2s.errors import StoreError, UserError

SOURCE = Item(value=1)
KEPT = Item(value=2, inputs_=(SOURCE,))
LOOSE = Item(value=3)


@pytest.fixture
def filled(any_store: ArtifactStore) -> ArtifactStore:
    """A store with a sweep of two stages and a stage that no sweep refers to."""
    for stage in (SOURCE, KEPT, LOOSE):
        assert run_stage(stage, any_store).record
    References(any_store, "mine").add([KEPT])
    return any_store


def age(store: ArtifactStore) -> None:
    """Everything in a local store is two days old."""
    for path in Path(store.root).rglob("*"):
        then = path.stat().st_mtime - 2 * 86400
        os.utime(path, (then, then))


def found(store: ArtifactStore, older_than_s: float = -1e9) -> dict[str, Garbage]:
    kept = frozenset().union(*referred(store).values())
    return {item.what: item for item in garbage(store, kept, older_than_s)}


def test_all_is_whole_until_a_byte_is_flipped(filled: ArtifactStore) -> None:
    checked = damages(filled)
    assert (checked.artifacts, checked.damages) == (3, ())
    assert checked.size > 0
    (path,) = [
        path
        for path in filled.files.find("item")
        if path.startswith("item-1-") and path.endswith("/item.txt")
    ]
    filled.files.write(f"item/{path}", b"2\n")
    checked = damages(filled)
    assert [(damage.key, damage.problem) for damage in checked.damages] == [
        (SOURCE.key, "item.txt has the wrong checksum")
    ]
    assert damages(filled, checksums=False).damages == ()
    assert damages(filled, [KEPT.key[:8]]).artifacts == 1


def test_sweep_refers_to_its_last_complete_run_and_what_was_begun_since(
    any_store: ArtifactStore,
) -> None:
    first = References(any_store, "mine")
    first.add([KEPT])
    first.add([LOOSE])
    assert referred(any_store)["mine"] == {SOURCE.key, KEPT.key, LOOSE.key}
    first.replace([KEPT])
    assert referred(any_store)["mine"] == {SOURCE.key, KEPT.key}
    References(any_store, "mine").add([LOOSE])
    References(any_store, "other").add([Item(value=9)])
    assert referred(any_store) == {
        "mine": {SOURCE.key, KEPT.key, LOOSE.key},
        "other": {Item(value=9).key},
    }


def test_references_that_cannot_be_read_stop_the_collection(any_store: ArtifactStore) -> None:
    References(any_store, "mine").add([KEPT])
    (name,) = any_store.files.names(".sweeps/mine")
    any_store.files.write(f".sweeps/mine/{name}", b"{")
    with pytest.raises(StoreError, match=r"what sweep 'mine' refers to.*run the sweep again"):
        referred(any_store)


def test_what_no_sweep_refers_to_goes_and_nothing_else(filled: ArtifactStore) -> None:
    items = found(filled)
    assert set(items) <= {"artifact", "scratch"}
    assert items["artifact"].path == f"item/item-3-{LOOSE.key}"
    assert items["artifact"].size > 100
    assert found(filled, older_than_s=3600) == {}
    remove(filled, items.values())
    assert filled.present([SOURCE, KEPT, LOOSE]) == {SOURCE.key, KEPT.key}
    assert not damages(filled).damages
    assert set(found(filled)) <= {"scratch"}
    assert not [path for path in filled.files.find("item") if "item-3-" in path]


def test_what_killed_and_damaged_attempts_leave_is_garbage(
    store: ArtifactStore, tmp_path: Path
) -> None:
    script = (
        "store = ArtifactStore(sys.argv[1])\n"
        "contexts = [store.workspace(Item(value=3), resume) for resume in (False, True)]\n"
        "for context in contexts:\n"
        "    (context.__enter__() / 'half').write_text('half')\n"
        "os.kill(os.getpid(), 9)"
    )
    assert python(script, store.root).wait() == -signal.SIGKILL
    put(store, KEPT)
    put(store, SOURCE)
    References(store, "mine").add([KEPT])
    for stage in (KEPT, LOOSE):
        (tmp_path / stage.key).mkdir()
        (tmp_path / stage.key / "state.json").write_text("1")
        store.save_partial(stage, tmp_path / stage.key)
        assert Lease(store, stage, "me").take()
    (Path(store.location(SOURCE)) / "item.txt").write_text("TEXT")
    assert store.set_aside(SOURCE.key)
    # The checkpoint and the lease of a stage that is done go at once, the others when they are old.
    young = garbage(store, {KEPT.key, SOURCE.key}, 3600)
    assert sorted(item.path for item in young) == [
        f".leases/{KEPT.key}.1",
        f".partial/{KEPT.key}",
    ]
    age(store)
    with store.workspace(Item(value=5)) as mine:
        (mine / "now").write_text("")
        old = garbage(store, {KEPT.key, SOURCE.key}, 3600)
        whats = sorted(item.what for item in old)
        # A new workspace, one that is handed on, and the lock of that.
        assert whats == [*["checkpoint"] * 2, "damaged", *["lease"] * 2, *["scratch"] * 3]
        remove(store, old)
        assert mine.exists()
    assert store.has(KEPT)
    for folder in (".partial", ".leases", ".broken", ".tmp"):
        assert store.files.find(folder) == {}


def test_attempts_that_lost_are_garbage_and_the_one_that_counts_is_not(
    s3: str, tmp_path: Path
) -> None:
    store = ArtifactStore(f"{s3}/{tmp_path.name}", cache=str(tmp_path / "cache"))
    put(store, KEPT)
    store.files.write(f"item/item-2-{KEPT.key}/0123456789ab/item.txt", b"lost")
    store.files.write(f"item/item-3-{LOOSE.key}/0123456789ab/item.txt", b"never committed")
    items = garbage(store, {KEPT.key}, -1e9)
    assert sorted(item.path for item in items) == [
        f"item/item-2-{KEPT.key}/0123456789ab",
        f"item/item-3-{LOOSE.key}",
    ]
    remove(store, items)
    assert garbage(store, {KEPT.key}, -1e9) == []
    new = ArtifactStore(store.root, cache=str(tmp_path / "new"))
    assert (new.local(KEPT) / "item.txt").read_text() == "text"
    ArtifactStore(store.root).discard(new.places("item")[0])
    (copy,) = garbage(new, set(), -1e9)
    assert copy.what == "copy"
    remove(new, [copy])
    assert not Path(copy.path).exists()


def test_gc_says_what_would_go_and_removes_it_only_when_told(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in (SOURCE, KEPT, LOOSE):
        put(store, stage)
    gc = ["store", "gc", "--store", store.root, "--older-than", "0"]
    assert main(gc) == 2
    assert "no sweep has said what it refers to" in capsys.readouterr().err
    References(store, "mine").add([KEPT])
    (Path(store.root) / ".results" / "older").mkdir(parents=True)
    assert main(gc) == 2
    assert "older ran in" in capsys.readouterr().err
    gc += ["--forget", "older"]
    age(store)
    assert main(gc) == 0
    out = capsys.readouterr().out
    assert "kept: sweep mine refers to 2 stages, 2 are there" in out
    assert "artifacts that no sweep refers to" in out
    assert "nothing was removed: add --delete" in out
    assert store.has(LOOSE)
    assert main([*gc, "--delete"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not ArtifactStore(store.root).has(LOOSE)
    assert ArtifactStore(store.root).present([SOURCE, KEPT]) == {SOURCE.key, KEPT.key}
    assert main([*gc, "--forget", "nosuch"]) == 2
    assert "no sweep 'nosuch'" in capsys.readouterr().err


def test_verify_names_what_is_damaged_and_sets_it_aside(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, KEPT)
    put(store, LOOSE)
    verify = ["store", "verify", "--store", store.root]
    assert main(verify) == 0
    assert "2 artifacts in" in capsys.readouterr().out
    (Path(store.location(LOOSE)) / "item.txt").write_text("TEXT")
    (Path(store.location(KEPT)) / MANIFEST_FILE).unlink()
    assert main([*verify, "--quick"]) == 1
    assert "TEXT" not in capsys.readouterr().out
    assert main([*verify, "--set-aside"]) == 1
    out = capsys.readouterr().out
    assert f"item-3-{LOOSE.key}: item.txt has the wrong checksum" in out
    assert f"item-2-{KEPT.key}: manifest.json is missing" in out
    assert "2 set aside" in out
    assert main(verify) == 0
    assert main([*verify, "ffff"]) == 2
    assert "no artifact" in capsys.readouterr().err


def test_exported_sweep_is_whole_in_another_store(
    filled: ArtifactStore, tmp_path: Path, s3: str
) -> None:
    file = tmp_path / "mine.tar"
    moved = export(filled, "mine", referred(filled)["mine"], file)
    assert (moved.artifacts, moved.missing) == (2, 0)
    with pytest.raises(UserError, match="exists"):
        export(filled, "mine", referred(filled)["mine"], file)
    for root in (str(tmp_path / "other"), f"{s3}/{tmp_path.name}"):
        other = ArtifactStore(root, cache=str(tmp_path / "there"))
        taken = import_archive(other, file)
        assert (taken.artifacts, taken.present, taken.size) == (2, 0, moved.size)
        assert other.present([SOURCE, KEPT, LOOSE]) == {SOURCE.key, KEPT.key}
        assert (other.local(KEPT) / "item.txt").read_text() == "1\n2\n"
        assert other.record(KEPT).identity == filled.record(KEPT).identity
        assert referred(other) == referred(filled)
        assert damages(other).damages == ()
        again = import_archive(other, file)
        assert (again.artifacts, again.present) == (0, 2)


def test_import_leaves_what_is_there_as_it_is(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, KEPT, "theirs")
    References(store, "mine").add([KEPT])
    moved = export(store, "mine", referred(store)["mine"], tmp_path / "mine.tar")
    assert moved.missing == 1
    other = ArtifactStore(str(tmp_path / "other"))
    put(other, KEPT, "mine")
    import_archive(other, tmp_path / "mine.tar")
    assert (other.local(KEPT) / "item.txt").read_text() == "mine"


def test_damaged_artifact_is_not_exported(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, KEPT)
    (Path(store.location(KEPT)) / "item.txt").write_text("TEXT")
    with pytest.raises(StoreError, match=r"item-2 .* is damaged"):
        export(ArtifactStore(store.root), "mine", {KEPT.key}, tmp_path / "mine.tar")
    assert list(tmp_path.glob("*.tar*")) == []
    assert list(tmp_path.glob(".*.tar*")) == []


Members = dict[str, tuple[tarfile.TarInfo, bytes]]


def members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        found = {}
        for member in archive:
            content = archive.extractfile(member)
            assert content
            found[member.name] = (member, content.read())
        return found


def written(file: Path, found: Iterator[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(file, "w") as archive:
        for member, data in found:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return file


def plain(name: str) -> tarfile.TarInfo:
    return tarfile.TarInfo(name)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


ITEM = f"item/item-2-{KEPT.key}"


def in_manifest(found: Members, old: str, new: str) -> Members:
    member, data = found[f"{ITEM}/{MANIFEST_FILE}"]
    return found | {member.name: (member, data.replace(old.encode(), new.encode()))}


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("parent", "leaves the store"),
        ("absolute", "leaves the store"),
        ("backslash", "leaves the store"),
        ("symbolic link", "is a link"),
        ("hard link", "is a link"),
        ("folder that is a link", "is a link"),
        ("device", "no regular file"),
        ("twice", "is in it twice"),
        ("foreign file", "belongs to no artifact"),
        ("hidden folder", "is no folder of an artifact"),
        ("flipped byte", "has the wrong checksum"),
        ("manifest leaves", "leaves the artifact"),
        ("manifest of another stage", "manifest.json is of stage"),
        ("attempt", "names an attempt"),
        ("pickle", "could run code"),
        ("file is missing", "is missing"),
        ("no index", "index.json is missing"),
        ("format", "has format 7"),
        ("cut off", "cut off or damaged|is missing|bytes instead"),
        ("no tar", "give a file that `w2s store export` has written"),
    ],
)
def test_archive_with_anything_wrong_is_refused_and_writes_nothing(
    store: ArtifactStore, tmp_path: Path, attack: str, said: str
) -> None:
    put(store, KEPT)
    export(store, "mine", {KEPT.key}, tmp_path / "good.tar")
    found = members(tmp_path / "good.tar")
    bad = tmp_path / "bad.tar"
    more: list[tuple[tarfile.TarInfo, bytes]] = []
    match attack:
        case "parent":
            more = [(plain(f"{ITEM}/../../../outside"), b"x")]
        case "absolute":
            more = [(plain(f"{tmp_path}/outside"), b"x")]
        case "backslash":
            more = [(plain("..\\outside"), b"x")]
        case "symbolic link":
            more = [(link(f"{ITEM}/more", "/etc/passwd"), b"")]
        case "hard link":
            more = [(link(f"{ITEM}/more", "/etc/passwd", tarfile.LNKTYPE), b"")]
        case "folder that is a link":
            more = [(link("finetune", str(tmp_path)), b""), (plain("finetune/outside"), b"x")]
        case "device":
            more = [(link(f"{ITEM}/more", "", tarfile.CHRTYPE), b"")]
        case "twice":
            more = [(plain(f"{ITEM}/item.txt"), b"other")]
        case "foreign file":
            more = [(plain(f"{ITEM}/surprise.txt"), b"x")]
        case "hidden folder":
            index = json.loads(found["index.json"][1])
            index["artifacts"] = [f".sweeps/x-{KEPT.key}"]
            found["index.json"] = (plain("index.json"), json.dumps(index).encode())
        case "flipped byte":
            found[f"{ITEM}/item.txt"] = (plain(f"{ITEM}/item.txt"), b"TEXT")
        case "manifest leaves":
            found = in_manifest(found, '"item.txt"', '"../item.txt"')
        case "manifest of another stage":
            found = in_manifest(found, KEPT.key, "0" * 16)
        case "attempt":
            found = in_manifest(found, '"files"', '"attempt": "a", "files"')
        case "pickle":
            found = in_manifest(found, '"item.txt"', '"model.bin"')
            found[f"{ITEM}/item.txt"] = (plain(f"{ITEM}/model.bin"), b"text")
        case "file is missing":
            del found[f"{ITEM}/item.txt"]
        case "no index":
            del found["index.json"]
        case "format":
            member, data = found["index.json"]
            found["index.json"] = (member, data.replace(b'"format": 1', b'"format": 7'))
    written(bad, iter([*found.values(), *more]))
    if attack == "cut off":
        bad.write_bytes((tmp_path / "good.tar").read_bytes()[:2500])
    elif attack == "no tar":
        bad.write_text("hello")
    other = ArtifactStore(str(tmp_path / "other"))
    with pytest.raises(UserError, match=said):
        import_archive(other, bad)
    assert other.present([KEPT]) == set()
    assert not (tmp_path / "outside").exists()
    assert [path for path in (tmp_path / "other").rglob("*") if path.is_file()] == []


def test_sweep_travels_by_the_command_line(
    store: ArtifactStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    put(store, KEPT)
    References(store, "mine").add([KEPT])
    assert main(["store", "export", "nosuch", "--store", store.root]) == 2
    assert "no sweep 'nosuch' has run" in capsys.readouterr().err
    assert main(["store", "export", "mine", "--store", store.root]) == 0
    assert "written to mine.tar; 1 stages of the sweep are missing" in capsys.readouterr().out
    assert main(["store", "import", "mine.tar", "--store", "other"]) == 0
    assert "1 artifacts" in capsys.readouterr().out
    assert ArtifactStore("other").has(KEPT)
    assert main(["store", "verify", "--store", "nowhere"]) == 2
    assert "there is no store in" in capsys.readouterr().err
