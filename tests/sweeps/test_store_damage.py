"""Artifacts that are not what was stored: found before they are read, named, made again."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest

from sweeps.manifest import MANIFEST_FILE
from sweeps.store import ArtifactStore
from sweeps.worker import run_stage
from tests.stores import Item, put, python, record
from w2s.errors import DamagedArtifact, StoreError

STAGE = Item(value=3)


def reopened(store: ArtifactStore, tmp_path: Path) -> ArtifactStore:
    """The store as a new process on a new machine sees it."""
    return ArtifactStore(store.root, cache=str(tmp_path / "new"))


def change(store: ArtifactStore, damage: str) -> None:
    """Damage the artifact of `STAGE` in the store itself."""
    paths = [f"item/{path}" for path in store.files.find("item")]
    (item,) = [path for path in paths if path.endswith("item.txt")]
    (manifest,) = [path for path in paths if path.endswith(MANIFEST_FILE)]
    (facts,) = [path for path in paths if path.endswith("stage.json")]
    match damage:
        case "cut off":
            store.files.write(item, store.files.read(item)[:-1])
        case "flipped byte":
            store.files.write(item, b"T" + store.files.read(item)[1:])
        case "file is missing":
            store.files.remove(item)
        case "manifest is missing":
            store.files.remove(manifest)
        case "manifest is cut off":
            store.files.write(manifest, store.files.read(manifest)[:-5])
        case "manifest of another stage":
            other = store.files.read(manifest).replace(STAGE.key.encode(), b"0" * 16)
            store.files.write(manifest, other)
        case "manifest names a file outside":
            found = json.loads(store.files.read(manifest))
            found["files"]["../../secret"] = found["files"]["item.txt"]
            store.files.write(manifest, json.dumps(found).encode())
        case "record is cut off":
            store.files.write(facts, store.files.read(facts)[:-5])
        case _:
            raise AssertionError(damage)


SAID = {
    "cut off": r"item.txt has 3 bytes instead of 4",
    "flipped byte": r"item.txt has the wrong checksum",
    "file is missing": r"is missing",
    "manifest is missing": r"manifest.json is missing",
    "manifest is cut off": r"manifest.json is unreadable",
    "manifest of another stage": r"manifest.json is of stage 0000000000000000",
    "manifest names a file outside": r"'../../secret' leaves the artifact",
    "record is cut off": r"stage.json has \d+ bytes instead of \d+",
}


@pytest.mark.parametrize("damage", SAID)
def test_damage_is_found_before_use_set_aside_and_made_again(
    any_store: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    put(any_store, STAGE)
    change(any_store, damage)
    store = reopened(any_store, tmp_path)
    with pytest.raises(DamagedArtifact, match=SAID[damage]) as caught:
        store.local(STAGE)
    assert (caught.value.key, caught.value.kind, caught.value.name) == (STAGE.key, "item", "item 3")
    assert f"stage item 3 ({STAGE.key}) is damaged" in str(caught.value)
    store.set_aside(STAGE.key)
    assert not store.has(STAGE)
    assert store.present([STAGE]) == set()
    assert run_stage(STAGE, store).record
    assert (reopened(store, tmp_path / "later").local(STAGE) / "item.txt").read_text() == "3\n"


def test_record_that_was_changed_is_damage_too(any_store: ArtifactStore, tmp_path: Path) -> None:
    put(any_store, STAGE)
    (path,) = [path for path in any_store.files.find("item") if path.endswith("stage.json")]
    data = any_store.files.read(f"item/{path}")
    any_store.files.write(f"item/{path}", data.replace(b"10.0", b"11.0"))
    with pytest.raises(DamagedArtifact, match=r"stage.json has the wrong checksum"):
        reopened(any_store, tmp_path).record(STAGE)


def test_error_passes_between_processes() -> None:
    error = DamagedArtifact("k" * 16, "item", "item 3", "item.txt is missing", "/there")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.key, copy.kind, str(copy)) == (error.key, error.kind, str(error))
    assert isinstance(copy, StoreError)


def test_what_reads_a_damaged_artifact_says_which_one(store: ArtifactStore, tmp_path: Path) -> None:
    put(store, STAGE)
    change(store, "flipped byte")
    reader = Item(value=4, inputs_=(STAGE,))
    outcome = run_stage(reader, reopened(store, tmp_path))
    assert outcome.record is None
    assert outcome.damaged == STAGE.key
    assert "item 3" in outcome.cause
    assert not store.has(reader)


def test_what_is_whole_is_not_set_aside(any_store: ArtifactStore) -> None:
    put(any_store, STAGE)
    assert not any_store.set_aside(STAGE.key)
    assert not any_store.set_aside("0" * 16)
    assert (any_store.local(STAGE) / "item.txt").read_text() == "text"


def test_file_that_does_not_belong_is_refused_and_moved_alone(store: ArtifactStore) -> None:
    put(store, STAGE)
    folder = Path(store.location(STAGE))
    (folder / "deep" / "pytorch_model.bin").write_text("surprise")
    (folder / ".nfs0001").write_text("left by the file system")
    with pytest.raises(DamagedArtifact, match=r"deep/pytorch_model.bin does not belong to it"):
        store.local(STAGE)
    assert not store.set_aside(STAGE.key)
    assert (store.local(STAGE) / "item.txt").read_text() == "text"
    (broken,) = (Path(store.root) / ".broken").iterdir()
    assert broken.read_text() == "surprise"


def test_link_is_refused_when_it_is_read_and_when_it_is_committed(
    store: ArtifactStore, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("text")
    put(store, STAGE)
    file = Path(store.location(STAGE)) / "item.txt"
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(DamagedArtifact, match=r"item.txt is a link"):
        store.local(STAGE)
    with store.workspace(Item(value=4)) as folder:
        (folder / "item.txt").symlink_to(secret)
        with pytest.raises(StoreError, match=r"cannot commit item 4 .* item.txt is a link"):
            store.commit(Item(value=4), folder, record(Item(value=4)))
    assert not store.has(Item(value=4))


def test_file_is_read_once_as_long_as_it_stays_as_it_is(store: ArtifactStore) -> None:
    put(store, STAGE)
    other = ArtifactStore(store.root)
    other.local(STAGE)
    file = Path(store.location(STAGE)) / "item.txt"
    status = file.stat()
    file.write_text("TEXT")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.local(STAGE)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DamagedArtifact, match="wrong checksum"):
        other.local(STAGE)


@pytest.mark.parametrize("damage", ["flipped", "removed", "foreign"])
def test_damaged_copy_of_a_remote_artifact_is_copied_again(
    s3: str, tmp_path: Path, damage: str
) -> None:
    store = ArtifactStore(f"{s3}/{tmp_path.name}-{damage}", cache=str(tmp_path / "cache"))
    put(store, STAGE)
    copy = store.local(STAGE)
    if damage == "flipped":
        (copy / "item.txt").write_text("TEXT")
        os.utime(copy / "item.txt", ns=(0, 0))
    elif damage == "removed":
        (copy / "item.txt").unlink()
    else:
        (copy / "adapter.bin").write_text("surprise")
    folder = store.local(STAGE)
    assert (folder / "item.txt").read_text() == "text"
    assert not (folder / "adapter.bin").exists()


NO_ROOM = """
store = ArtifactStore(sys.argv[1])
put(store, Item(value=1), "small")
if sys.argv[2] == "full":
    Path(sys.argv[1], "..", "ballast").write_bytes(bytes(2**20 - 2**16))
else:
    os.system(f"mount -o remount,ro {Path(sys.argv[1]).parent}")
try:
    store.check_writable()
    put(store, Item(value=2), "x" * 2**17)
except (OSError, StoreError) as error:
    print(type(error).__name__, error)
print("present", len(store.present([Item(value=1), Item(value=2)])))
print("whole", (ArtifactStore(sys.argv[1]).local(Item(value=1)) / "item.txt").read_text())
print("left", list(Path(sys.argv[1], ".tmp").iterdir()))
"""


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("full", "No space left on device"),
        ("read-only", "StoreError cannot write the store .* Read-only file system"),
    ],
)
def test_full_or_read_only_disk_leaves_what_is_there_and_nothing_half(
    tmp_path: Path, state: str, said: str
) -> None:
    if shutil.which("unshare") is None or os.system(f"{' '.join(ALONE)} true") != 0:
        pytest.skip("needs user namespaces, to mount a small disk")
    script = f"os.system('mount -t tmpfs -o size=1m tmpfs {tmp_path}')\n" + NO_ROOM
    process = python(script, str(tmp_path / "store"), state, prefix=ALONE)
    out, _ = process.communicate()
    assert process.returncode == 0, out
    lines = out.splitlines()
    assert re.search(said, lines[0]), out
    assert lines[1:] == ["present 1", "whole small", "left []"]


ALONE = ("unshare", "--user", "--map-root-user", "--mount")


def test_disk_that_fills_up_in_a_commit_is_told_with_the_stage(tmp_path: Path) -> None:
    script = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = ArtifactStore(sys.argv[1])\n"
        "with store.workspace(Item(value=1)) as folder:\n"
        "    (folder / 'item.txt').write_text('x')\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
        "    try:\n"
        "        store.commit(Item(value=1), folder, record(Item(value=1)))\n"
        "    except StoreError as error:\n"
        "        print(error)\n"
        "print(store.has(Item(value=1)), list(Path(sys.argv[1], '.tmp').iterdir()))\n"
    )
    process = python(script, str(tmp_path / "store"))
    out, _ = process.communicate()
    first, second = out.splitlines()
    assert first.startswith(f"cannot commit item 1 ({Item(value=1).key}) to {tmp_path}/store/item")
    assert "File too large" in first
    assert second == "False []"
