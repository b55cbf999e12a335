"""The log of a sweep on its way to MLflow: files that outlive processes and absent servers.

Every process that logs a sweep appends to a `Journal` of its own in the sweep's folder, locked for
as long as the process lives. What a dead process left there is taken over by the next one that logs
the sweep (`take_over`), so an entry is in MLflow or in a file, and two processes never write to one
file. A `WriterLock` has processes on one file system write a sweep to MLflow one after another.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from sweeps.runs import ENTRY, Entry

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"
LOCK_FILE = "writer.lock"
LOCK_POLL_S = 0.05
"""Time between two looks at a lock that another process holds."""


class Journal:
    """Entries of this process that are not yet in MLflow; the file is made by the first one."""

    def __init__(self, folder: Path, uri: str) -> None:
        """Nothing is written yet.

        Args:
            folder: of the sweep's journals, made if need be.
            uri: where the entries shall go, without secrets; the first line of the file.
        """
        self.folder = folder
        self.path: Path | None = None
        self._header = json.dumps({"tracking_uri": uri}).encode() + b"\n"
        self._file: int | None = None

    def append(self, entry: Entry) -> None:
        """Write an entry down.

        Raises:
            OSError: it cannot be written; the file is as it was.
        """
        if self._file is None:
            self._open()
        assert self._file is not None
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            _write(self._file, _line(entry))
        except OSError:
            # A torn line would take the next one with it.
            os.ftruncate(self._file, end)
            raise

    def clear(self) -> None:
        """Everything is in MLflow."""
        if self._file is not None:
            os.ftruncate(self._file, len(self._header))

    def close(self, entries: Iterable[Entry]) -> None:
        """Leave exactly these entries to the next process; without any, no file.

        Raises:
            OSError: they cannot be written; the file keeps what was appended.
        """
        left = b"".join(map(_line, entries))
        try:
            if left:
                if self.path is None:
                    self._open()
                assert self.path is not None
                new = self.path.with_suffix(".tmp")
                try:
                    new.write_bytes(self._header + left)
                    new.replace(self.path)
                finally:
                    new.unlink(missing_ok=True)
            elif self.path is not None:
                self.path.unlink(missing_ok=True)
        finally:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            name = f"{time.time_ns()}-{socket.gethostname()}-{os.getpid()}{SUFFIX}"
            path = self.folder / name
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                if _locked(file, path):
                    _write(file, self._header)
                    self.path, self._file = path, file
                    return
            except OSError:
                path.unlink(missing_ok=True)
                os.close(file)
                raise
            os.close(file)  # Somebody who takes leftovers over saw it before it was locked.


class Leftover(NamedTuple):
    """The journal of a process that is gone."""

    path: Path
    uri: str
    """Where its entries should have gone, without secrets."""
    entries: tuple[Entry, ...]


def leftovers(folder: Path) -> Iterator[Leftover]:
    """The journals of dead processes, oldest first; each is locked while the caller has it."""
    for path in _files(folder):
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if _locked(file, path):
                yield _read(path)
        finally:
            os.close(file)


def in_use(folder: Path) -> bool:
    """Whether a living process logs this sweep."""
    return len(_files(folder)) > sum(1 for _ in leftovers(folder))


def take_over(journal: Journal) -> list[Entry]:
    """Move the entries of dead processes into a journal; a file that cannot be moved stays."""
    moved: list[Entry] = []
    for left in leftovers(journal.folder):
        try:
            for entry in left.entries:
                journal.append(entry)
        except OSError as error:
            log.warning("the tracking journal %s cannot be moved: %s", left.path, error)
        else:
            left.path.unlink(missing_ok=True)
        moved.extend(left.entries)
    return moved


class WriterBusy(Exception):
    """Another process writes to MLflow, and there is no more time to wait for it."""


class WriterLock:
    """One process at a time writes a sweep's log to MLflow."""

    def __init__(self, folder: Path) -> None:
        """Nothing is locked yet."""
        self._folder = folder
        self._me = uuid.uuid4().hex.encode()

    @contextlib.contextmanager
    def turn(self, give_up: Callable[[], bool]) -> Generator[bool]:
        """Hold the lock for a block.

        Args:
            give_up: asked while another process has the lock.

        Yields:
            Whether another process may have written since this one's last turn.

        Raises:
            WriterBusy: given up.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:  # Where no file can be made there is no journal to share either.
            yield True
            return
        try:
            while not _try_lock(file):
                if give_up():
                    raise WriterBusy("another process writes the log of this sweep")
                time.sleep(LOCK_POLL_S)
            mine = os.pread(file, len(self._me) + 1, 0) == self._me
            if not mine:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, 0)
                    os.pwrite(file, self._me, 0)
            yield not mine
        finally:
            os.close(file)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Generator[None]:
    """Keep other processes out of a block that takes the same lock; waits."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


def _read(path: Path) -> Leftover:
    uri, entries = "", []
    for number, line in enumerate(path.read_bytes().splitlines()):
        try:
            if number == 0:
                uri = json.loads(line)["tracking_uri"]
            else:
                entries.append(ENTRY.validate_json(line))
        except (ValidationError, ValueError, KeyError, TypeError):
            # The last line of a process that was killed.
            log.warning("a damaged line of the tracking journal %s is left out", path)
    return Leftover(path, uri, tuple(entries))


def _locked(file: int, path: Path) -> bool:
    """Lock an open file; False if another process has it or the path is no longer this file."""
    if not _try_lock(file):
        return False
    try:
        return os.fstat(file).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _line(entry: Entry) -> bytes:
    return ENTRY.dump_json(entry) + b"\n"
