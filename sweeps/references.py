"""What each sweep refers to, written into the store so that `w2s store gc` keeps it.

A run adds the keys of its stages before it asks for them, to a file of its own in
`.sweeps/<name>/`; when it ends well, one file replaces all others of the sweep. So what counts is
the last complete run of a sweep's name and all that was begun since.
"""

import json
import uuid
from collections.abc import Iterable

from sweeps.store import ArtifactStore
from w2s.errors import StoreError
from w2s.stages.base import Stage, closure

SWEEPS_FOLDER = ".sweeps"


class References:
    """The keys that one run of a sweep refers to."""

    def __init__(self, store: ArtifactStore, sweep: str) -> None:
        """Args: store: where they are kept. sweep: name of the sweep."""
        self._store = store
        self._sweep = sweep
        self._added: set[str] = set()

    def add(self, roots: Iterable[Stage]) -> None:
        """Keep these stages and all that they are made from.

        Raises:
            StoreError: the store cannot be written.
        """
        new = closure(roots).keys() - self._added
        if new:
            self._write(new)
            self._added |= new

    def replace(self, roots: Iterable[Stage]) -> None:
        """Keep these stages and all that they are made from, and nothing that was added before.

        Raises:
            StoreError: the store cannot be written.
        """
        old = self._store.files.names(f"{SWEEPS_FOLDER}/{self._sweep}")
        self._added = set(closure(roots))
        self._write(self._added)
        for name in old:
            self._store.files.remove(f"{SWEEPS_FOLDER}/{self._sweep}/{name}")

    def _write(self, keys: Iterable[str]) -> None:
        write_references(self._store, self._sweep, keys)


def write_references(store: ArtifactStore, sweep: str, keys: Iterable[str]) -> None:
    """Add keys to what a sweep refers to.

    Raises:
        StoreError: the store cannot be written.
    """
    path = f"{SWEEPS_FOLDER}/{sweep}/{uuid.uuid4().hex[:12]}.json"
    try:
        store.files.write(path, json.dumps({"sweep": sweep, "keys": sorted(keys)}).encode())
    except OSError as error:
        raise StoreError(f"cannot write {store.files.url(path)}: {error}") from error


def referred(store: ArtifactStore) -> dict[str, frozenset[str]]:
    """Keys that each sweep refers to, by the sweep's name.

    Raises:
        StoreError: a file of them cannot be read.
    """
    found: dict[str, frozenset[str]] = {}
    for sweep in store.files.names(SWEEPS_FOLDER):
        keys: set[str] = set()
        for name in store.files.names(f"{SWEEPS_FOLDER}/{sweep}"):
            path = f"{SWEEPS_FOLDER}/{sweep}/{name}"
            try:
                keys.update(json.loads(store.files.read(path))["keys"])
            except FileNotFoundError:  # a run that ended replaced it just now
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{store.files.url(path)} cannot be read ({error}), so nobody knows what "
                    f"sweep {sweep!r} refers to; remove the file and run the sweep again"
                ) from error
        found[sweep] = frozenset(keys)
    return found


def forget(store: ArtifactStore, sweep: str) -> None:
    """Remove what a sweep refers to; its artifacts stay until they are collected."""
    store.files.remove_tree(f"{SWEEPS_FOLDER}/{sweep}")
