"""What a store holds: artifacts found, checked, and brought to local folders.

A `Place` says where an artifact lies. `ArtifactReader` finds places, compares files with manifests
before it hands them out, and copies those of a remote store to this machine; `ArtifactStore`
(`sweeps.store`) writes.
"""

import contextlib
import hashlib
import re
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from sweeps.events import StageRecord
from sweeps.files import SCRATCH_FOLDER, LocalFiles, open_files
from sweeps.manifest import (
    MANIFEST_FILE,
    BrokenFiles,
    Manifest,
    Verified,
    check_folder,
    checksum,
    key_of,
    parse_manifest,
    stage_folder,
)
from sweeps.records import CURVE_FILE, STAGE_FILE, read_record
from sweeps.scratch import Scratch
from w2s.errors import DamagedArtifact, StoreError
from w2s.stages.base import Stage

FEW = 32
"""Artifacts of a kind that are asked for one by one where a listing would be a remote request."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an artifact lies."""

    kind: str
    """Folder of its kind."""
    folder: str
    """Name of its own folder, `<name>-<key>`."""

    @property
    def path(self) -> str:
        """Folder below the root."""
        return f"{self.kind}/{self.folder}"

    @property
    def manifest(self) -> str:
        """Its manifest, below the root."""
        return f"{self.path}/{MANIFEST_FILE}"

    @property
    def key(self) -> str:
        """Key of its stage."""
        return self.folder[-16:]

    @property
    def name(self) -> str:
        """Readable name, as far as a folder can have it."""
        return self.folder[:-17]


class ArtifactReader:
    """The reading half of a store."""

    def __init__(self, root: str, cache: str | None = None) -> None:
        """Open a store; nothing is read or written.

        Args:
            root: folder, or URL of an fsspec file system.
            cache: folder for local copies of remote artifacts; None: `~/.cache/w2s`.

        Raises:
            StoreError: no file system for this URL is installed.
        """
        self.files = open_files(root)
        self.root = self.files.root
        self.is_local = self.files.is_local
        cache_root = Path(cache) if cache else Path.home() / ".cache" / "w2s"
        self.digest = hashlib.sha256(self.root.encode()).hexdigest()[:16]
        """Tells this root from others with the same last folder."""
        self.copies = cache_root.absolute() / self.digest
        """Folder of this machine for copies of remote artifacts."""
        self._verified = Verified()
        self._indexes: dict[str, dict[str, str]] = {}
        self._manifests: dict[Place, Manifest] = {}
        here = Path(self.root) if self.is_local else self.copies
        self._scratch = Scratch(here / SCRATCH_FOLDER)

    @property
    def local_dir(self) -> Path:
        """Folder of this machine for what is no artifact: studies, journals, results.

        A local store's own folder; for one behind a URL a cache folder of its own.
        """
        if self.is_local:
            return Path(self.root)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.root.rpartition("/")[2])
        return self.copies.parent / "runs" / f"{name}-{self.digest}"

    # What is there

    def present(self, stages: Iterable[Stage]) -> set[str]:
        """Keys of those stages whose artifact is there, under whatever name.

        A kind is listed once; later calls look for what is new. Files are not checked.
        """
        wanted: dict[str, list[Stage]] = defaultdict(list)
        for stage in stages:
            wanted[stage_folder(stage).partition("/")[0]].append(stage)
        found: set[str] = set()
        for kind, asked in wanted.items():
            with self._reading():
                index = self._index(kind)
                missing = sum(stage.key not in index for stage in asked)
                if not self.is_local and missing > FEW:
                    index = self._index(kind, anew=True)
                    found.update(stage.key for stage in asked if stage.key in index)
                else:
                    found.update(stage.key for stage in asked if self._where(stage))
        return found

    def has(self, stage: Stage) -> bool:
        """Whether the artifact of a stage is there. Its files are not checked."""
        with self._reading():
            return self._where(stage) is not None

    def location(self, stage: Stage) -> str:
        """Folder or URL of a stage's artifact, there or not."""
        return self.files.url(stage_folder(stage))

    def places(self, kind: str | None = None) -> list[Place]:
        """Where the artifacts are, of one kind or of all; the store is listed anew."""
        kinds = self.kinds() if kind is None else [kind]
        with self._reading():
            return [
                Place(each, folder)
                for each in kinds
                for folder in sorted(self._index(each, anew=True).values())
                if not self.is_local or self.files.exists(f"{each}/{folder}/{MANIFEST_FILE}")
            ]

    def kinds(self) -> list[str]:
        """Kinds of which anything was ever stored."""
        with self._reading():
            return [name for name in self.files.names("") if re.fullmatch(r"\w+", name)]

    def counts(self) -> dict[str, int]:
        """Artifacts by kind."""
        counts = {kind: len(self.places(kind)) for kind in self.kinds()}
        return {kind: count for kind, count in counts.items() if count}

    def find(self, key: str) -> StageRecord | None:
        """The record of the artifact with this key, or a unique beginning of it; None: no such.

        Raises:
            StoreError: several artifacts have a key that begins so.
        """
        places = {place.key: place for place in self.places() if place.key.startswith(key)}
        if len(places) > 1:
            names = ", ".join(sorted(place.folder for place in places.values())[:5])
            raise StoreError(f"{len(places)} keys begin with {key!r}: {names}; give more digits")
        return self.record_at(next(iter(places.values()))) if places else None

    # Reading

    def local(self, stage: Stage) -> Path:
        """Local folder with the verified files of an artifact; a remote one is copied first.

        Sizes and names are compared at every call, checksums once as long as a file stays as it is.

        Raises:
            DamagedArtifact: there is no artifact, or its files are not what was stored.
            StoreError: the store cannot be read.
        """
        return self.local_at(self._find(stage), stage.name)

    def local_at(self, place: Place, name: str = "") -> Path:
        """As `local`, by place; `name` is that of the stage, for messages."""
        with self._reading(), self._reporting(place, name):
            manifest = self.manifest_at(place)
            if isinstance(self.files, LocalFiles):
                folder = Path(self.files.path(place.path)) / manifest.attempt
            else:
                folder = self.copy_of(place, manifest)
                if not folder.exists():
                    self._download(place, manifest, folder)
            try:
                check_folder(folder, manifest, self._verified)
            except BrokenFiles:
                if self.is_local:
                    raise
                # The copy is damaged, or somebody tidied the cache: what counts is the store.
                self._forget_copy(folder)
                self._download(place, manifest, folder)
                check_folder(folder, manifest, self._verified)
            return folder

    def manifest_at(self, place: Place) -> Manifest:
        """The manifest of an artifact.

        Raises:
            BrokenFiles: there is none that can be read.
        """
        if place in self._manifests:
            return self._manifests[place]
        try:
            manifest = parse_manifest(self.files.read(place.manifest), place.key)
        except FileNotFoundError as error:
            self._forget(place)
            raise BrokenFiles(f"{MANIFEST_FILE} is missing") from error
        if not self.is_local:
            self._manifests[place] = manifest
        return manifest

    def record(self, stage: Stage) -> StageRecord:
        """How the artifact of a stage was computed, with its curve.

        Raises:
            DamagedArtifact: there is no artifact, or its record is not what was stored.
            StoreError: the store cannot be read.
        """
        return self.record_at(self._find(stage), stage.name)

    def record_at(self, place: Place, name: str = "") -> StageRecord:
        """As `record`, by place; `name` is that of the stage, for messages."""
        with self._reading(), self._reporting(place, name):
            return self._record(place)

    def _record(self, place: Place) -> StageRecord:
        stage_json = self._read_whole(place, STAGE_FILE)
        curve = self._read_whole(place, CURVE_FILE)
        try:
            record = read_record(stage_json, curve, self.files.url(place.path))
        except ValueError as error:
            raise BrokenFiles(f"its record is unreadable ({error})") from error
        if record.key != place.key:
            raise BrokenFiles(f"{STAGE_FILE} is of stage {record.key}")
        return record

    def _read_whole(self, place: Place, file: str) -> bytes:
        """A small file of an artifact; empty where the artifact has none of this name."""
        manifest = self.manifest_at(place)
        if file not in manifest.files:
            return b""
        try:
            data = self.files.read(join(place.path, manifest.attempt, file))
        except FileNotFoundError as error:
            self._forget(place)
            raise BrokenFiles(f"{file} is missing") from error
        if checksum(data) != manifest.files[file].sha256:
            raise BrokenFiles(f"{file} has the wrong checksum")
        return data

    def copy_of(self, place: Place, manifest: Manifest) -> Path:
        """Where the copy of a remote artifact is on this machine, if there is one."""
        return self.copies / place.kind / place.folder / (manifest.attempt or "0")

    def _download(self, place: Place, manifest: Manifest, copy: Path) -> None:
        with self._scratch.folder(place.key) as scratch:
            try:
                self.files.get(join(place.path, manifest.attempt), manifest.files, scratch)
            except FileNotFoundError as error:
                self._forget(place)
                raise BrokenFiles("a file is missing") from error
            check_folder(scratch, manifest, self._verified)
            self._keep_copy(scratch, copy)

    def _keep_copy(self, folder: Path, copy: Path) -> None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # another process was faster
            folder.rename(copy)

    def _forget_copy(self, copy: Path) -> None:
        with self._scratch.folder("old") as folder, contextlib.suppress(OSError):
            copy.rename(folder / "copy")

    def check(self, place: Place, checksums: bool = True) -> Manifest:
        """Compare an artifact in the store, not a copy of it, with its manifest.

        Args:
            place: where it is.
            checksums: read all files; else only names and sizes are compared.

        Raises:
            BrokenFiles: it is damaged; the message says how.
        """
        self._manifests.pop(place, None)
        manifest = self.manifest_at(place)
        base = join(place.path, manifest.attempt)
        if isinstance(self.files, LocalFiles):
            folder = Path(self.files.path(base))
            check_folder(folder, manifest, self._verified if checksums else None)
        else:
            found = self.files.find(base)
            for name, facts in manifest.files.items():
                if name not in found:
                    raise BrokenFiles(f"{name} is missing")
                if found[name].size != facts.size:
                    raise BrokenFiles(
                        f"{name} has {found[name].size} bytes instead of {facts.size}"
                    )
                if checksums and self.files.sha256(f"{base}/{name}") != facts.sha256:
                    raise BrokenFiles(f"{name} has the wrong checksum")
        self._record(place)
        return manifest

    # Inside

    def _index(self, kind: str, anew: bool = False) -> dict[str, str]:
        """Folder names of a kind by key, as of the first look or, with `anew`, of now."""
        if anew or kind not in self._indexes:
            if self.is_local:
                folders = self.files.names(kind)
            else:
                paths = (path.split("/") for path in self.files.find(kind))
                folders = [path[0] for path in paths if path[1:] == [MANIFEST_FILE]]
            self._indexes[kind] = {key: name for name in folders if (key := key_of(name))}
        return self._indexes[kind]

    def _where(self, stage: Stage) -> Place | None:
        place = place_of(stage)
        known = self._indexes.get(place.kind, {}).get(stage.key)
        if known == place.folder and not self.is_local:
            return place
        if self.files.exists(place.manifest):
            self._note(place)
            return place
        # The name is no identity: an artifact that was stored under another name is the same one.
        other = Place(place.kind, self._index(place.kind).get(stage.key, place.folder))
        return other if other != place and self.files.exists(other.manifest) else None

    def _note(self, place: Place) -> None:
        if place.kind in self._indexes:
            self._indexes[place.kind][place.key] = place.folder

    def _find(self, stage: Stage) -> Place:
        with self._reading():
            place = self._where(stage)
            if place is None:
                self._indexes.pop(place_of(stage).kind, None)
                place = self._where(stage)
        if place is None:
            raise DamagedArtifact(
                stage.key,
                stage.kind,
                stage.name,
                f"{MANIFEST_FILE} is missing",
                self.location(stage),
            )
        return place

    def _forget(self, place: Place) -> None:
        """Look again, where an artifact turned out not to be what was thought."""
        self._manifests.pop(place, None)
        self._indexes.pop(place.kind, None)

    @contextlib.contextmanager
    def _reporting(self, place: Place, name: str) -> Generator[None]:
        try:
            yield
        except BrokenFiles as error:
            location = self.files.url(place.path)
            raise DamagedArtifact(
                place.key, place.kind, name or place.name, str(error), location
            ) from error

    @contextlib.contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot read the store {self.root!r}: {type(error).__name__}: {error}"
            ) from error


def place_of(stage: Stage) -> Place:
    """Where a stage's artifact lies, there or not."""
    kind, _, folder = stage_folder(stage).partition("/")
    return Place(kind, folder)


def join(*parts: str) -> str:
    """Parts of a path, without empty ones."""
    return "/".join(filter(None, parts))
