"""Artifacts as one file: a tar with an index, which another store can take in.

`index.json` comes first and names the sweep, the keys it refers to and the artifacts; then comes
each artifact's manifest with its files. Nothing in an archive is believed: all names are checked
before anything is written, and every file against its checksum before it counts. An artifact that
a store has already is left as it is.
"""

import re
import tarfile
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sweeps.artifacts import Place
from sweeps.files import stream_checksum
from sweeps.manifest import (
    MANIFEST_FILE,
    BrokenFiles,
    Manifest,
    key_of,
    parse_manifest,
)
from sweeps.references import write_references
from sweeps.store import ArtifactStore
from w2s.errors import StoreError, UserError

INDEX_FILE = "index.json"
FORMAT = 1
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill")
"""Endings of files that run code when they are loaded; nothing here reads or takes them."""
MAX_TEXT = 2**28
"""Bytes of an index or manifest at most."""


class Index(BaseModel):
    """What an archive holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    """Version of this layout."""
    sweep: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the sweep."""
    keys: tuple[str, ...]
    """Keys of all stages that the sweep refers to."""
    artifacts: tuple[str, ...]
    """Folder of each artifact, `<kind>/<name>-<key>`."""


class Moved(NamedTuple):
    """What an export or an import has done."""

    artifacts: int
    """Artifacts that were written."""
    size: int
    """Bytes of their files."""
    missing: int
    """Stages that the sweep refers to and the archive has not."""
    present: int
    """Artifacts that the importing store had already."""


def export(store: ArtifactStore, sweep: str, keys: Collection[str], target: Path) -> Moved:
    """Write the artifacts of a sweep to a tar file.

    Args:
        store: the store.
        sweep: name of the sweep.
        keys: what it refers to.
        target: the file, which must not be there yet.

    Raises:
        UserError: there is such a file.
        DamagedArtifact: an artifact is not what was stored.
        StoreError: the store cannot be read, or the file not be written.
    """
    if target.exists():
        raise UserError(f"{target} exists; give a name that is free, or remove it first")
    # One for each key: an artifact that is there under two names is the same one.
    places = sorted(
        {place.key: place for place in store.places() if place.key in keys}.values(),
        key=lambda place: place.path,
    )
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
            index = Index(
                format=FORMAT,
                sweep=sweep,
                keys=tuple(sorted(keys)),
                artifacts=tuple(place.path for place in places),
            )
            _add_bytes(archive, INDEX_FILE, index.model_dump_json(indent=1).encode())
            for place in places:
                folder = store.local_at(place)
                manifest = store.manifest_at(place).model_copy(update={"attempt": ""})
                _add_bytes(archive, place.manifest, manifest.dump())
                for name in manifest.files:
                    archive.add(folder / name, f"{place.path}/{name}", filter=_anonymous)
                size += manifest.size
        draft.rename(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return Moved(len(places), size, len(set(keys)) - len(places), 0)


def import_archive(store: ArtifactStore, source: Path) -> Moved:
    """Take the artifacts of a tar file into a store, each as a whole or not at all.

    Args:
        store: the store; what it has already stays as it is.
        source: a file that `export` has written.

    Raises:
        UserError: it is no such file, or it has a file that does not belong in one.
        StoreError: the store cannot be written.
    """
    with _opened(source) as (archive, members):
        index = _index(archive, members, source)
        manifests = {path: _manifest(archive, members, path, source) for path in index.artifacts}
        expected = {INDEX_FILE}
        for path, manifest in manifests.items():
            expected |= {f"{path}/{name}" for name in (MANIFEST_FILE, *manifest.files)}
        if foreign := sorted(members.keys() - expected):
            raise _refused(source, f"{foreign[0]} belongs to no artifact in it")
        there = {place.key for place in store.places()}
        taken, size = 0, 0
        for path, manifest in manifests.items():
            if manifest.key in there:
                continue
            place = Place(*path.split("/"))
            try:
                taken += _take(store, place, manifest, archive, members, source)
            except OSError as error:
                raise StoreError(f"cannot write {place.path} to {store.root}: {error}") from error
            size += manifest.size
        write_references(store, index.sweep, index.keys)
    missing = len(set(index.keys)) - len(manifests)
    return Moved(taken, size, missing, len(manifests) - taken)


def _take(
    store: ArtifactStore,
    place: Place,
    manifest: Manifest,
    archive: tarfile.TarFile,
    members: dict[str, tarfile.TarInfo],
    source: Path,
) -> bool:
    with store.scratch(place.key) as folder:
        for name, facts in manifest.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            file = _member(archive, members, f"{place.path}/{name}", source)
            with file as original, open(target, "xb") as copy:
                digest = stream_checksum(original, copy)
            if digest != facts.sha256:
                raise _refused(source, f"{place.path}/{name} has the wrong checksum")
        attempt = "" if store.is_local else uuid.uuid4().hex[:12]
        return store.adopt(place, folder, manifest.model_copy(update={"attempt": attempt}))


@contextmanager
def _opened(source: Path) -> Iterator[tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
    """The archive and its members by name, all of which are plain files with safe names."""
    try:
        # Without compression: sizes are what they are said to be.
        opened = tarfile.open(source, "r:")  # noqa: SIM115 - closed below
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"cannot read {source}: {error}; give a file that `w2s store export` has written"
        ) from error
    with opened as archive:
        members: dict[str, tarfile.TarInfo] = {}
        try:
            for member in archive:
                parts = member.name.split("/")
                if any(part in ("", ".", "..") for part in parts) or "\\" in member.name:
                    raise _refused(source, f"the name {member.name!r} leaves the store")
                if not member.isreg():
                    raise _refused(source, f"{member.name} is a link or no regular file")
                if member.name in members:
                    raise _refused(source, f"{member.name} is in it twice")
                if member.name.endswith(PICKLES):
                    raise _refused(source, f"{member.name} could run code when it is loaded")
                members[member.name] = member
        except tarfile.TarError as error:
            raise _refused(source, f"it is cut off or damaged ({error})") from error
        yield archive, members


def _index(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], source: Path) -> Index:
    try:
        index = Index.model_validate_json(_text(archive, members, INDEX_FILE, source))
    except ValidationError as error:
        raise _refused(source, f"{INDEX_FILE} is unreadable") from error
    if index.format != FORMAT:
        raise _refused(source, f"it has format {index.format}; this version reads {FORMAT}")
    if not all(re.fullmatch(r"[0-9a-f]{16}", key) for key in index.keys):
        raise _refused(source, f"{INDEX_FILE} has keys that are none")
    if len(set(index.artifacts)) != len(index.artifacts):
        raise _refused(source, f"{INDEX_FILE} names an artifact twice")
    return index


def _manifest(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], path: str, source: Path
) -> Manifest:
    kind, _, folder = path.partition("/")
    key = key_of(folder)
    if not re.fullmatch(r"[A-Za-z0-9_]+", kind) or "/" in folder or not key:
        raise _refused(source, f"{path!r} is no folder of an artifact")
    try:
        manifest = parse_manifest(_text(archive, members, f"{path}/{MANIFEST_FILE}", source), key)
    except BrokenFiles as error:
        raise _refused(source, f"{path}: {error}") from error
    if manifest.attempt:
        raise _refused(source, f"{path} names an attempt")
    for name, facts in manifest.files.items():
        member = members.get(f"{path}/{name}")
        if member is None:
            raise _refused(source, f"{path}/{name} is missing")
        if member.size != facts.size:
            raise _refused(source, f"{path}/{name} has {member.size} bytes instead of {facts.size}")
    return manifest


def _text(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, source: Path
) -> bytes:
    with _member(archive, members, name, source) as file:
        if members[name].size > MAX_TEXT:
            raise _refused(source, f"{name} is too large")
        return file.read()


@contextmanager
def _member(
    archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, source: Path
) -> Iterator[IO[bytes]]:
    if name not in members:
        raise _refused(source, f"{name} is missing")
    file = archive.extractfile(members[name])
    assert file is not None, "only regular files are members"
    with file:
        yield file


def _refused(source: Path, why: str) -> UserError:
    return UserError(f"{source} is refused: {why}; nothing of it that is not whole was taken")


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, BytesIO(data))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who and when: the same artifacts give the same bytes."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o644
    return member
