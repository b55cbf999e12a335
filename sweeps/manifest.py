"""The format of an artifact: which files it has, and whether a folder holds them unchanged.

`manifest.json` names every file with size and SHA-256. It is the last file written, and what it
names is all that an artifact has: a file that it does not name, a link, or a path that leaves the
folder is refused as much as a wrong checksum.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sweeps.files import walk
from w2s.stages.base import Stage

MANIFEST_FILE = "manifest.json"
NUM_THREADS = 4
"""Files that are read beside each other to be checked; a digest leaves the interpreter's lock."""
_BIG = 2**26
_ARTIFACT = re.compile(r"(.*)-([0-9a-f]{16})")


class BrokenFiles(ValueError):
    """A folder does not hold what its manifest says; the message says which file and how."""


def _relative(path: str) -> str:
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"the path {path!r} leaves the artifact")
    return path


class FileFacts(BaseModel):
    """A file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    """Bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum."""


class Manifest(BaseModel):
    """What an artifact consists of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Key of the stage."""
    attempt: str = Field(default="", pattern=r"^[0-9a-z]{0,32}$")
    """Folder beside the manifest that has the files; empty: they lie beside the manifest."""
    files: dict[Annotated[str, AfterValidator(_relative)], FileFacts]
    """Every file, by its path in that folder."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(facts.size for facts in self.files.values())

    def dump(self) -> bytes:
        """The content of `manifest.json`."""
        return self.model_dump_json(indent=1, exclude_defaults=True).encode()


class Verified:
    """Files whose checksum was found right, so that it is not computed again while they last."""

    def __init__(self) -> None:
        self._digests: dict[tuple[int, int, int, int], str] = {}

    def digest(self, path: Path, status: os.stat_result) -> str:
        """SHA-256 of a file, computed once as long as device, inode, size and mtime stay."""
        mark = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if mark not in self._digests:
            self._digests[mark] = sha256(path)
        return self._digests[mark]


def parse_manifest(data: bytes, key: str) -> Manifest:
    """A manifest from its bytes.

    Raises:
        BrokenFiles: it is none, or one of another stage.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise BrokenFiles(f"{MANIFEST_FILE} is unreadable ({what})") from error
    if manifest.key != key:
        raise BrokenFiles(f"{MANIFEST_FILE} is of stage {manifest.key}")
    return manifest


def describe_folder(folder: Path, key: str, attempt: str, verified: Verified) -> Manifest:
    """The manifest of the files in a folder, without that of an earlier attempt.

    Raises:
        BrokenFiles: there is a link or something else that is no regular file.
    """
    found = scan(folder)
    found.pop(MANIFEST_FILE, None)
    facts = {
        name: FileFacts(size=status.st_size, sha256=verified.digest(folder / name, status))
        for name, status in sorted(found.items())
    }
    return Manifest(key=key, attempt=attempt, files=facts)


def check_folder(folder: Path, manifest: Manifest, verified: Verified | None) -> None:
    """Compare a folder with a manifest.

    Args:
        folder: local folder of the files.
        manifest: what it should hold.
        verified: files whose checksum was right are not read again; None: none is read.

    Raises:
        BrokenFiles: a file is missing, too many, changed, or none.
    """
    found = scan(folder)
    found.pop(MANIFEST_FILE, None)
    for name, facts in manifest.files.items():
        if name not in found:
            raise BrokenFiles(f"{name} is missing")
        if found[name].st_size != facts.size:
            size = found[name].st_size
            raise BrokenFiles(f"{name} has {size} bytes instead of {facts.size}")
    if foreign := foreign_files(found, manifest):
        raise BrokenFiles(f"{foreign[0]} does not belong to it")

    if verified is None:
        return

    def digest(name: str) -> str:
        return verified.digest(folder / name, found[name])

    for name, value in zip(manifest.files, _each(digest, manifest), strict=True):
        if value != manifest.files[name].sha256:
            raise BrokenFiles(f"{name} has the wrong checksum")


def foreign_files(found: Iterable[str], manifest: Manifest) -> list[str]:
    """Files that a manifest does not name; hidden ones are left by file systems and desktops."""
    return sorted(
        name
        for name in found
        if name not in manifest.files and not name.rpartition("/")[2].startswith(".")
    )


def scan(folder: Path) -> dict[str, os.stat_result]:
    """Status of the files below a folder, by path.

    Raises:
        BrokenFiles: there is a link or something else that is no regular file.
    """
    start = len(str(folder)) + 1
    found = {}
    for path, status in walk(str(folder)):
        name = path[start:]
        if not S_ISREG(status.st_mode):
            raise BrokenFiles(f"{name} is a link or no regular file")
        found[name] = status
    return found


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(data: bytes) -> str:
    """SHA-256 of bytes in hex digits."""
    return hashlib.sha256(data).hexdigest()


def stage_folder(stage: Stage) -> str:
    """Where a stage's artifact lies below the root: `<kind>/<name>-<key>`, from safe letters."""
    assert re.fullmatch(r"[0-9a-f]{16}", stage.key), stage.key
    kind = re.sub(r"\W", "_", stage.kind, flags=re.ASCII)
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "-", stage.name).strip("-.")[:100]
    return f"{kind}/{name}-{stage.key}"


def key_of(folder_name: str) -> str | None:
    """Key of the artifact in a folder of this name; None: no artifact is named so."""
    match = _ARTIFACT.fullmatch(folder_name)
    return match.group(2) if match else None


def _each(digest: Callable[[str], str], manifest: Manifest) -> Iterable[str]:
    if manifest.size < _BIG or len(manifest.files) < 2:
        return map(digest, manifest.files)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(digest, manifest.files))
