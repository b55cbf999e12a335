"""`w2s store`: check a store, free its space, and move sweeps between stores."""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sweeps.archive import Moved, export, import_archive
from sweeps.references import forget, referred
from sweeps.store import ArtifactStore
from sweeps.upkeep import Garbage, damages, garbage, remove
from w2s.errors import StoreError, UserError

RESULTS_FOLDER = ".results"
WHAT = {
    "artifact": "artifacts that no sweep refers to",
    "leftover": "files of attempts that were not committed",
    "checkpoint": "checkpoints of stages that are done or given up",
    "damaged": "damaged artifacts that were set aside",
    "scratch": "working folders of processes that ended",
    "lease": "leases of stages that are done",
    "copy": "copies on this machine of what the store has no more",
}


def run(arguments: argparse.Namespace) -> int:
    """Run one of the verbs of `w2s store`."""
    verbs = {"verify": _verify, "gc": _gc, "export": _export, "import": _import}
    return verbs[arguments.store_verb](arguments)


def _verify(arguments: argparse.Namespace) -> int:
    store = _opened(arguments)
    started = time.monotonic()
    checked = damages(store, arguments.keys, checksums=not arguments.quick)
    if arguments.keys and not checked.artifacts:
        raise UserError(f"no artifact in {store.root} has a key that begins so")
    for damage in checked.damages:
        print(f"damaged: {damage.path}: {damage.problem}")
    how = "sizes" if arguments.quick else "checksums"
    print(
        f"{checked.artifacts} artifacts in {store.root}, {len(checked.damages)} of them damaged; "
        f"{how} of {shown(checked.size)} are right; {time.monotonic() - started:.1f} s"
    )
    if checked.damages and arguments.set_aside:
        moved = sum(store.set_aside(damage.key) for damage in checked.damages)
        print(f"{moved} set aside in .broken; `w2s run` makes them again")
    elif checked.damages:
        print("`w2s store verify --set-aside` moves them to .broken; `w2s run` makes them again")
    return int(bool(checked.damages))


def _gc(arguments: argparse.Namespace) -> int:
    store = _opened(arguments)
    sweeps = referred(store)
    _check_known(store, sweeps, arguments.forget)
    for sweep in arguments.forget:
        sweeps.pop(sweep, None)
    kept = frozenset().union(*sweeps.values())
    found = garbage(store, kept, arguments.older_than * 3600)
    _print_sweeps(store, sweeps)
    _print_garbage(found)
    if arguments.list:
        for item in found:
            print(f"{item.what:<10} {shown(item.size):>10}  {item.path}")
    total = shown(sum(item.size for item in found))
    if not arguments.delete:
        print(f"{total} in {len(found)} places would go; nothing was removed: add --delete")
        return 0
    for sweep in arguments.forget:
        forget(store, sweep)
    # A run may have begun in between: what it refers to now stays.
    kept = frozenset().union(*referred(store).values())
    going = [item for item in found if item.what != "artifact" or item.path[-16:] not in kept]
    try:
        remove(store, going)
    except OSError as error:
        raise StoreError(f"cannot remove from {store.root}: {error}") from error
    print(f"{shown(sum(item.size for item in going))} in {len(going)} places removed")
    return 0


def _check_known(
    store: ArtifactStore, sweeps: Mapping[str, frozenset[str]], forgotten: Sequence[str]
) -> None:
    """A store in which sweeps ran that have not said what they refer to would be emptied."""
    results = store.local_dir / RESULTS_FOLDER
    ran = {path.name for path in results.iterdir()} if results.is_dir() else set()
    known = ran | sweeps.keys()
    for sweep in forgotten:
        if sweep not in known:
            raise UserError(f"no sweep {sweep!r} has run in {store.root}; found: {_named(known)}")
    silent = ran - sweeps.keys() - set(forgotten)
    if silent:
        raise UserError(
            f"{_named(silent)} ran in {store.root} without saying what they refer to, so all they "
            "made would go; `w2s run FILE` says it (where all is cached this takes seconds), and "
            "--forget NAME lets a sweep go"
        )
    if not sweeps:
        raise UserError(
            f"no sweep has said what it refers to in {store.root}, so all of it would go; "
            "`w2s run FILE` says it; to be rid of the whole store, remove it"
        )


def _print_sweeps(store: ArtifactStore, sweeps: dict[str, frozenset[str]]) -> None:
    there = {place.key for place in store.places()}
    for sweep, keys in sorted(sweeps.items()):
        print(f"kept: sweep {sweep} refers to {len(keys)} stages, {len(keys & there)} are there")


def _print_garbage(found: list[Garbage]) -> None:
    if not found:
        return
    table = Table()
    for name in ("what", "kind", "number", "size"):
        table.add_column(name, justify="right" if name in ("number", "size") else "left")
    number: Counter[tuple[str, str]] = Counter()
    size: dict[tuple[str, str], int] = defaultdict(int)
    for item in found:
        kind = item.path.partition("/")[0] if item.what in ("artifact", "leftover") else ""
        number[item.what, kind] += 1
        size[item.what, kind] += item.size
    for what, kind in sorted(number, key=lambda each: -size[each]):
        table.add_row(WHAT[what], kind, str(number[what, kind]), shown(size[what, kind]))
    Console().print(table)


def _export(arguments: argparse.Namespace) -> int:
    store = _opened(arguments)
    sweeps = referred(store)
    if arguments.sweep not in sweeps:
        raise UserError(
            f"no sweep {arguments.sweep!r} has run in {store.root}; there are {_named(sweeps)}"
        )
    target = Path(arguments.out or f"{arguments.sweep}.tar")
    moved = export(store, arguments.sweep, sweeps[arguments.sweep], target)
    print(f"{moved.artifacts} artifacts, {shown(moved.size)}, written to {target}{_missing(moved)}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    store = ArtifactStore(arguments.store)
    store.check_writable()
    moved = import_archive(store, Path(arguments.archive))
    print(
        f"{moved.artifacts} artifacts, {shown(moved.size)}, taken into {store.root}; "
        f"{moved.present} were there already{_missing(moved)}"
    )
    return 0


def _opened(arguments: argparse.Namespace) -> ArtifactStore:
    store = ArtifactStore(arguments.store)
    if not store.files.names(""):
        raise UserError(
            f"there is no store in {store.root}; --store names another folder or bucket"
        )
    return store


def _missing(moved: Moved) -> str:
    return f"; {moved.missing} stages of the sweep are missing" if moved.missing else ""


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def shown(size: int) -> str:
    """Bytes as a user reads them."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
