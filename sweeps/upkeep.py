"""Keeping a store in order: which artifacts are damaged, and what nothing refers to any more.

`damages` compares artifacts with their manifests. `garbage` lists what may go: artifacts that no
sweep refers to (`sweeps.references`), and what attempts that were killed, damage, finished leases
and copies leave behind. What is young is never garbage, because a run may be about to use it; a
run that loses an artifact all the same makes it again.
"""

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from sweeps.artifacts import Place
from sweeps.files import SCRATCH_FOLDER, Found, walk
from sweeps.leases import LEASE_FOLDER
from sweeps.manifest import MANIFEST_FILE, NUM_THREADS, BrokenFiles, key_of
from sweeps.partials import PARTIAL_FOLDER
from sweeps.store import BROKEN_FOLDER, ArtifactStore

What = Literal["artifact", "leftover", "checkpoint", "damaged", "scratch", "lease", "copy"]
TRAIN_FOLDER = ".gangs"
"""What Ray Train writes on a cluster with several nodes."""


class Damage(NamedTuple):
    """An artifact that is not what was stored."""

    key: str
    """Key of its stage."""
    path: str
    """Its folder below the root."""
    problem: str
    """What is wrong with it."""


class Checked(NamedTuple):
    """What `damages` has looked at."""

    artifacts: int
    """Artifacts."""
    size: int
    """Bytes of those that are whole."""
    damages: tuple[Damage, ...]
    """Those that are not."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that may go."""

    what: What
    """`artifact`: no sweep refers to it. `leftover`: files of an attempt that was not committed.
    `checkpoint`: of a stage that is done, or was given up. `damaged`: was set aside. `scratch`: of
    processes that ended. `lease`: of a stage that is done. `copy`: of a remote artifact, on this
    machine."""
    path: str
    """Folder or file below the root; of a `copy` on this machine."""
    size: int
    """Bytes."""
    modified: float
    """When it was last written: Unix time in seconds, by the store's clock."""


def damages(store: ArtifactStore, keys: Collection[str] = (), checksums: bool = True) -> Checked:
    """Compare artifacts with their manifests.

    Args:
        store: the store.
        keys: beginnings of keys; none: all artifacts.
        checksums: read every file; else only names and sizes are compared.

    Raises:
        StoreError: the store cannot be read.
    """
    places = [
        place
        for place in store.places()
        if not keys or any(place.key.startswith(key) for key in keys)
    ]

    def check(place: Place) -> int | Damage:
        try:
            return store.check(place, checksums).size
        except BrokenFiles as error:
            return Damage(place.key, place.path, str(error))

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(check, places))
    damaged = [each for each in found if isinstance(each, Damage)]
    damaged += [
        Damage(key, path, f"{MANIFEST_FILE} is missing")
        for path, key in _without_manifest(store, places)
        if not keys or any(key.startswith(each) for each in keys)
    ]
    whole = [each for each in found if not isinstance(each, Damage)]
    return Checked(len(whole) + len(damaged), sum(whole), tuple(sorted(damaged)))


def garbage(store: ArtifactStore, kept: Collection[str], older_than_s: float) -> list[Garbage]:
    """What may go, the largest first.

    Args:
        store: the store.
        kept: keys that sweeps refer to.
        older_than_s: what was written less than so many seconds ago stays.

    Raises:
        StoreError: the store cannot be read.
    """
    places = store.places()
    there = {place.key for place in places}
    found = [
        *_artifacts(store, places, kept),
        *_below(store, SCRATCH_FOLDER, "scratch"),
        *_below(store, TRAIN_FOLDER, "scratch"),
        *_below(store, BROKEN_FOLDER, "damaged"),
        *_below(store, PARTIAL_FOLDER, "checkpoint"),
        *_below(store, LEASE_FOLDER, "lease"),
        *_copies(store, places),
    ]
    now = store.files.now() if found else 0.0

    def may_go(item: Garbage) -> bool:
        if item.what in ("checkpoint", "lease"):
            name = item.path.rpartition("/")[2].partition(".")[0]
            if name in there:
                return True
        return now - item.modified > older_than_s and not _is_at_work(store, item)

    return sorted(filter(may_go, found), key=lambda item: -item.size)


def remove(store: ArtifactStore, items: Iterable[Garbage]) -> None:
    """Remove garbage; an artifact is none from the first moment on.

    Raises:
        OSError: the store cannot be written.
    """
    for item in items:
        if item.what == "copy":
            shutil.rmtree(item.path, ignore_errors=True)
        elif item.what == "lease":
            store.files.remove(item.path)
        elif item.what == "artifact":
            store.discard(Place(*item.path.split("/")))
        else:
            store.files.remove_tree(item.path)


def _artifacts(
    store: ArtifactStore, places: Iterable[Place], kept: Collection[str]
) -> Iterator[Garbage]:
    """Artifacts that nothing refers to, and files of attempts beside those that stay."""
    by_kind: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_kind[place.kind].append(place)
    for kind in store.kinds():
        files: dict[str, dict[str, Found]] = defaultdict(dict)
        for path, found in store.files.find(kind).items():
            folder, _, name = path.partition("/")
            files[folder][name] = found
        whole = {place.folder: place for place in by_kind[kind]}
        for folder, found in files.items():
            place = whole.get(folder)
            if place is None:
                yield _item("leftover", f"{kind}/{folder}", found.values())
            elif place.key not in kept:
                yield _item("artifact", place.path, found.values())
            elif not store.is_local:
                yield from _attempts(store, place, found)


def _attempts(store: ArtifactStore, place: Place, files: dict[str, Found]) -> Iterator[Garbage]:
    try:
        current = store.manifest_at(place).attempt
    except BrokenFiles:
        return
    by_attempt: dict[str, list[Found]] = defaultdict(list)
    for name, found in files.items():
        attempt, slash, _ = name.partition("/")
        if slash and current and attempt != current:
            by_attempt[attempt].append(found)
    for attempt, found in by_attempt.items():
        yield _item("leftover", f"{place.path}/{attempt}", found)


def _below(store: ArtifactStore, folder: str, what: What) -> Iterator[Garbage]:
    children: dict[str, list[Found]] = defaultdict(list)
    for path, found in store.files.find(folder).items():
        children[path.partition("/")[0]].append(found)
    for name, found in children.items():
        yield _item(what, f"{folder}/{name}", found)


def _copies(store: ArtifactStore, places: Iterable[Place]) -> Iterator[Garbage]:
    """Copies on this machine of what the store does not have any more."""
    if store.is_local or not store.copies.exists():
        return
    current = set()
    for place in places:
        try:
            current.add(store.copy_of(place, store.manifest_at(place)))
        except BrokenFiles:
            continue
    for folder in store.copies.glob("*/*/*"):
        if folder not in current and not folder.relative_to(store.copies).parts[0].startswith("."):
            found = [Found(status.st_size, status.st_mtime) for _, status in walk(str(folder))]
            yield _item("copy", str(folder), found)


def _item(what: What, path: str, files: Iterable[Found]) -> Garbage:
    files = list(files)
    newest = max((file.modified for file in files), default=0.0)
    return Garbage(what, path, sum(file.size for file in files), newest)


def _is_at_work(store: ArtifactStore, item: Garbage) -> bool:
    """Whether a scratch folder belongs to a process that lives on this machine."""
    if item.what != "scratch" or not store.is_local:
        return False
    match = re.fullmatch(rf".*-{re.escape(os.uname().nodename)}-(\d+)-[0-9a-f]{{8}}", item.path)
    return bool(match) and Path(f"/proc/{match.group(1)}").exists()


def _without_manifest(store: ArtifactStore, places: Iterable[Place]) -> Iterator[tuple[str, str]]:
    """Path and key of folders of artifacts that have lost their manifest.

    On a remote store attempts that were killed leave such folders, which says nothing.
    """
    if not store.is_local:
        return
    known = {place.path for place in places}
    for kind in store.kinds():
        for folder in store.files.names(kind):
            key = key_of(folder)
            if key and f"{kind}/{folder}" not in known:
                yield f"{kind}/{folder}", key
