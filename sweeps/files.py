"""The few operations of a file system that the store needs, and what each of them promises.

`open_files` gives `LocalFiles` for a folder of this machine or of a shared file system, and
`RemoteFiles` for a URL that fsspec knows (`s3://`, `gs://`, ...). Paths are relative to the root,
with slashes, and cannot leave it. Whatever goes wrong is an `OSError`, a `FileNotFoundError` where
a file is not there.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import fsspec  # pyright: ignore[reportMissingTypeStubs]
from typing_extensions import override

from w2s.errors import StoreError

SCRATCH_FOLDER = ".tmp"


class Found(NamedTuple):
    """A file below a folder."""

    size: int
    """Bytes."""
    modified: float
    """Unix time in seconds, by the clock of the file system."""


class Files(ABC):
    """A folder tree somewhere."""

    root: str
    """The folder, or the URL."""
    is_local: bool
    """Whether the root is a folder that processes can open."""
    creates_once: bool
    """Whether `create` has exactly one winner."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is a file."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """What is in a file."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Make or replace a file; a reader sees the old or the new one, whole."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Make a file; False: there is one already. See `creates_once`.

        A reader sees no file or a whole one.
        """

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder, sorted; none where there is no folder."""

    @abstractmethod
    def find(self, folder: str) -> dict[str, Found]:
        """All files below a folder, by their path relative to it."""

    @abstractmethod
    def modified(self, path: str) -> float:
        """When a file was last written: Unix time in seconds, by the file system's clock."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def remove_tree(self, folder: str) -> None:
        """Remove a folder with all that is in it, or a file, if it is there."""

    @abstractmethod
    def put(self, source: Path, names: Iterable[str], target: str) -> None:
        """Copy files of a local folder to a folder here."""

    @abstractmethod
    def get(self, source: str, names: Iterable[str], target: Path) -> None:
        """Copy files of a folder here to a local folder."""

    @abstractmethod
    def sha256(self, path: str) -> str:
        """SHA-256 of a file in hex digits."""

    @abstractmethod
    def url(self, path: str) -> str:
        """How a user names a file or folder."""

    def now(self) -> float:
        """Unix time in seconds by the file system's clock, which no host's clock has to agree with.

        Writes and removes a small file.
        """
        probe = f"{SCRATCH_FOLDER}/now-{uuid.uuid4().hex}"
        self.write(probe, b"w2s")
        try:
            return self.modified(probe)
        finally:
            self.remove(probe)


class LocalFiles(Files):
    """A folder of this machine, or of a file system that is mounted here."""

    is_local = True
    creates_once = True

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, path: str) -> str:
        """The path on this machine."""
        return f"{self.root}/{_inside(path)}"

    @override
    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    @override
    def read(self, path: str) -> bytes:
        with open(self.path(path), "rb") as file:
            return file.read()

    @override
    def write(self, path: str, data: bytes) -> None:
        with self._draft(path, data) as draft:
            os.replace(draft, self.path(path))

    @override
    def create(self, path: str, data: bytes) -> bool:
        with self._draft(path, data) as draft:
            try:
                os.link(draft, self.path(path))
            except FileExistsError:
                return False
            except OSError:
                # A file system without hard links: it is made first and filled then.
                try:
                    with open(self.path(path), "xb") as file:
                        file.write(data)
                except FileExistsError:
                    return False
        return True

    @override
    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @override
    def find(self, folder: str) -> dict[str, Found]:
        root = self.path(folder)
        found = {}
        for path, status in walk(root):
            found[path[len(root) + 1 :]] = Found(status.st_size, status.st_mtime)
        return found

    @override
    def modified(self, path: str) -> float:
        return os.stat(self.path(path)).st_mtime

    @override
    def remove(self, path: str) -> None:
        self._forget(self.path(path))

    @override
    def remove_tree(self, folder: str) -> None:
        path = self.path(folder)
        if os.path.isfile(path):
            self._forget(path)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    @override
    def put(self, source: Path, names: Iterable[str], target: str) -> None:
        _copy(source, names, Path(self.path(target)))

    @override
    def get(self, source: str, names: Iterable[str], target: Path) -> None:
        _copy(Path(self.path(source)), names, target)

    @override
    def sha256(self, path: str) -> str:
        with open(self.path(path), "rb") as file:
            return stream_checksum(file)

    @override
    def url(self, path: str) -> str:
        return self.path(path)

    @contextlib.contextmanager
    def _draft(self, path: str, data: bytes) -> Generator[str]:
        """A file with this content beside where it shall be; gone afterwards."""
        folder, _, name = self.path(path).rpartition("/")
        draft = f"{folder}/.{name}-{uuid.uuid4().hex[:8]}"
        try:
            with _opened(draft, "wb") as file:
                file.write(data)
            yield draft
        finally:
            self._forget(draft)

    def _forget(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


class RemoteFiles(Files):
    """Objects behind a URL, reached through fsspec."""

    is_local = False

    def __init__(self, root: str, fs: Any, path: str) -> None:
        """Args: root: the URL. fs: its fsspec file system. path: the root as that names it."""
        self.root = root
        self._fs = fs
        self._path = path.rstrip("/")
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        # S3 and Google refuse the second of two conditional writes; the others look first.
        self.creates_once = protocol in ("s3", "gs", "gcs")
        # To make a folder of an object store may mean to make a bucket.
        self._has_folders = protocol not in ("s3", "gs", "gcs", "abfs", "az")

    @override
    def exists(self, path: str) -> bool:
        with _told():
            return bool(self._fs.isfile(self._at(path)))

    @override
    def read(self, path: str) -> bytes:
        with _told():
            return self._fs.cat_file(self._at(path))

    @override
    def write(self, path: str, data: bytes) -> None:
        with _told():
            self._make_folder(path.rpartition("/")[0])
            self._fs.pipe_file(self._at(path), data)

    @override
    def create(self, path: str, data: bytes) -> bool:
        with _told():
            self._make_folder(path.rpartition("/")[0])
            try:
                self._fs.pipe_file(self._at(path), data, mode="create")
            except FileExistsError:
                return False
            return True

    @override
    def names(self, folder: str) -> list[str]:
        with _told():
            try:
                paths = self._fs.ls(self._at(folder), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        # A file is listed as itself where a folder was asked for.
        inside = [path for path in paths if path.rstrip("/") != self._at(folder)]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in inside)

    @override
    def find(self, folder: str) -> dict[str, Found]:
        with _told():
            try:
                details = self._fs.find(self._at(folder), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self._at(folder)) + 1
        return {
            path[start:]: Found(int(facts["size"]), _time(facts))
            for path, facts in details.items()
            if len(path) > start
        }

    @override
    def modified(self, path: str) -> float:
        with _told():
            return _time(self._fs.info(self._at(path)))

    @override
    def remove(self, path: str) -> None:
        with _told(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(path))

    @override
    def remove_tree(self, folder: str) -> None:
        with _told(), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._at(folder), recursive=True)

    @override
    def put(self, source: Path, names: Iterable[str], target: str) -> None:
        names = list(names)
        with _told():
            for folder in {f"{target}/{name}".rpartition("/")[0] for name in names}:
                self._make_folder(folder)
            # In one call, because a file system may then send them beside each other.
            self._fs.put(
                [str(source / name) for name in names],
                [self._at(f"{target}/{name}") for name in names],
            )

    @override
    def get(self, source: str, names: Iterable[str], target: Path) -> None:
        names = list(names)
        for folder in {name.rpartition("/")[0] for name in names}:
            (target / folder).mkdir(parents=True, exist_ok=True)
        with _told():
            self._fs.get(
                [self._at(f"{source}/{name}") for name in names],
                [str(target / name) for name in names],
            )

    @override
    def sha256(self, path: str) -> str:
        with _told(), self._fs.open(self._at(path), "rb") as file:
            return stream_checksum(file)

    @override
    def url(self, path: str) -> str:
        return f"{self.root}/{_inside(path)}".rstrip("/")

    def _at(self, path: str) -> str:
        return f"{self._path}/{_inside(path)}".rstrip("/")

    def _make_folder(self, folder: str) -> None:
        if self._has_folders:
            self._fs.makedirs(self._at(folder), exist_ok=True)


def open_files(root: str) -> Files:
    """The files below a root, which need not exist.

    Raises:
        StoreError: no file system for this URL is installed.
    """
    if "://" not in root:
        return LocalFiles(str(Path(root).expanduser().absolute()))
    try:
        # Listings are not cached: another process may have committed a moment ago.
        fs, path = cast(Any, fsspec).url_to_fs(root, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise StoreError(
            f"cannot open the store {root!r}: {error}; give a folder, or install the fsspec "
            "package of this scheme (s3fs, gcsfs, ...)"
        ) from error
    if root.startswith(("file://", "local://")):
        return LocalFiles(str(path))
    return RemoteFiles(root.rstrip("/"), fs, str(path))


def stream_checksum(source: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """SHA-256 of what is left in an open file, in hex digits; it may be copied on the way."""
    digest = hashlib.sha256()
    while block := source.read(2**20):
        digest.update(block)
        if copy is not None:
            copy.write(block)
    return digest.hexdigest()


def walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of everything below a folder that is no folder; links are not followed."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
        else:
            yield entry.path, entry.stat(follow_symlinks=False)


def _inside(path: str) -> str:
    assert not path.startswith("/"), path
    assert ".." not in path.split("/"), path
    return path


def _opened(path: str, mode: str) -> IO[Any]:
    try:
        return open(path, mode)
    except FileNotFoundError:
        os.makedirs(path.rpartition("/")[0], exist_ok=True)
        return open(path, mode)


def _copy(source: Path, names: Iterable[str], target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _time(facts: dict[str, Any]) -> float:
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        if facts.get(name) is not None:
            value = facts[name]
            return float(value) if isinstance(value, int | float) else value.timestamp()
    raise OSError(f"the file system does not say when {facts['name']} was written")


@contextlib.contextmanager
def _told() -> Generator[None]:
    """Errors of a file system's own kind (credentials, connections) as `OSError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
