"""Folders of this machine in which processes write what is not whole yet."""

import contextlib
import fcntl
import os
import re
import shutil
import socket
import uuid
from collections.abc import Generator
from pathlib import Path


class Scratch:
    """A folder of folders; each belongs to the process that made it."""

    def __init__(self, root: Path) -> None:
        """Args: root: the folder; it is made when it is needed."""
        self._root = root

    @contextlib.contextmanager
    def folder(self, label: str) -> Generator[Path]:
        """A new folder, gone after the block, or after `clear` if its process is killed."""
        name = f"{label}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder = self._root / name
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def kept(self, label: str) -> Generator[Path]:
        """A folder that stays when the block fails, and is handed out again with what it holds.

        Where another process works in it, a new one is given.
        """
        kept = self._root / f"partial-{label}"
        self._root.mkdir(parents=True, exist_ok=True)
        with open(kept.with_suffix(".lock"), "w") as lock:
            if _try_lock(lock.fileno()):
                kept.mkdir(exist_ok=True)
                yield kept
                Path(lock.name).unlink(missing_ok=True)
                shutil.rmtree(kept, ignore_errors=True)
            else:
                with self.folder(label) as folder:
                    yield folder

    def clear(self) -> None:
        """Remove what killed processes of this machine left."""
        owner = re.compile(rf".*-{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}")
        for folder in self._root.iterdir() if self._root.exists() else ():
            match = owner.fullmatch(folder.name)
            if match and Path("/proc").exists() and not Path(f"/proc/{match.group(1)}").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
