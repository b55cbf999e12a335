"""Who runs a stage, where two clusters share one store: at most one of them, or at worst both.

A lease is a small file, `.leases/<key>.<number>`, whose holder writes it again while it works; the
highest number counts. A lease that was given back, or that was not written for `expires_s`, is
taken over by making the next number: where the file system gives one winner to two who make the
same file (`Files.creates_once`: folders, S3, Google), that is one. Age is the file's own time
against that of a file written now, so that no two clocks have to agree. A holder that was stopped
and goes on finds the higher number when it renews.

Nothing depends on leases but time: a commit is whole whoever makes it, and the first one stays. So
a file system without such a promise, or a holder that sleeps past its lease, means at worst that a
stage runs twice.

Take a lease, then look whether the artifact is there: a holder that is done removes its files.
"""

import contextlib
import json
import os
import socket
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path
from typing import Any

from sweeps.store import ArtifactStore
from w2s.errors import StoreError
from w2s.stages.base import Stage

LEASE_FOLDER = ".leases"
EXPIRES_S = 60.0
"""Age at which a lease counts as abandoned; renew it four times in this time."""


class Lease:
    """The right to run one stage, as one cluster sees it."""

    def __init__(
        self, store: ArtifactStore, stage: Stage, owner: str, expires_s: float = EXPIRES_S
    ) -> None:
        """Nothing is read or written.

        Args:
            store: where the stage's artifact will be.
            stage: what shall run.
            owner: name of the cluster; who has the same name has the same leases.
            expires_s: age in seconds at which leases of this stage count as abandoned.
        """
        self._files = store.files
        self._stage = stage
        self._owner = owner
        self._expires_s = expires_s
        self._number = 0
        self.holder = ""
        """After `take` or `renew` said no: name of the cluster that runs the stage, if known."""

    def take(self) -> bool:
        """Try to get the right to run the stage; False: another cluster has it, see `holder`.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._telling():
            number = 1
            if not self._files.create(self._path(number), self._content()):
                highest = self._highest()
                if highest and not self._is_free(highest):
                    return False
                number = highest + 1
                if not self._files.create(self._path(number), self._content()):
                    self.holder = self._read(number).get("owner", "")
                    return False
            self._number = number
            self.holder = ""
            return True

    def renew(self) -> bool:
        """Say that the stage still runs; False: another cluster has taken it over.

        Raises:
            StoreError: the store cannot be written.
        """
        assert self._number, "a lease is taken before it is renewed"
        with self._telling():
            if self._files.exists(self._path(self._number + 1)):
                self.holder = self._read(self._number + 1).get("owner", "")
                self._number = 0
                return False
            self._files.write(self._path(self._number), self._content())
            return True

    def release(self, done: bool) -> None:
        """Give the right back, if it is held; never fails, because leases expire.

        Args:
            done: the artifact is there, so that nobody needs the lease again.
        """
        number, self._number = self._number, 0
        if not number:
            return
        with contextlib.suppress(OSError):
            if not done:
                self._files.write(self._path(number), self._content(released=True))
                return
            for each in range(number, 0, -1):
                self._files.remove(self._path(each))

    def _highest(self) -> int:
        number = 0
        while self._files.exists(self._path(number + 1)):
            number += 1
        return number

    def _is_free(self, number: int) -> bool:
        found = self._read(number)
        self.holder = found.get("owner", "")
        if found.get("released") or self.holder == self._owner or _is_gone(found):
            return True
        try:
            modified = self._files.modified(self._path(number))
        except FileNotFoundError:
            return True
        return self._files.now() - modified > self._expires_s

    def _read(self, number: int) -> dict[str, Any]:
        """What the holder wrote; nothing where it has only just made the file, or removed it."""
        try:
            found = json.loads(self._files.read(self._path(number)))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _content(self, released: bool = False) -> bytes:
        facts = {
            "owner": self._owner,
            "stage": self._stage.name,
            "host": socket.gethostname(),
            "process": _own_mark(os.getpid()),
            "pid": os.getpid(),
        }
        return json.dumps(facts | ({"released": True} if released else {})).encode()

    def _path(self, number: int) -> str:
        return f"{LEASE_FOLDER}/{self._stage.key}.{number}"

    @contextlib.contextmanager
    def _telling(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot write the lease of {self._stage.name} ({self._stage.key}) in "
                f"{self._files.root}: {type(error).__name__}: {error}"
            ) from error


def process_mark(pid: int) -> str:
    """What tells a process from every other one, of any machine and any time; empty: unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
        # After the name in brackets, which may hold anything: the 22nd field is the start time.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{boot} {space} {started}"


@lru_cache(maxsize=1)
def _own_mark(pid: int) -> str:
    """`process_mark` of this process, which stays what it is; a fork has another id."""
    return process_mark(pid)


def _is_gone(facts: dict[str, Any]) -> bool:
    """Whether the process that wrote a lease has certainly ended: it ran here, and runs no more."""
    mark, pid = facts.get("process"), facts.get("pid")
    here = _own_mark(os.getpid())
    if not mark or not here or not isinstance(pid, int):
        return False
    same_place = str(mark).rpartition(" ")[0] == here.rpartition(" ")[0]
    return same_place and process_mark(pid) != mark
