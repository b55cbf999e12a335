"""`w2s explain`: a stage's spec, or the fields in which two stages differ."""

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sweeps.events import StageRecord
from sweeps.store import ArtifactStore
from w2s.errors import UserError


def run(arguments: argparse.Namespace) -> int:
    """Print one spec or one difference."""
    store = ArtifactStore(arguments.store)
    first = _found(store, arguments.key)
    if arguments.key2 is None:
        print(f"{first.kind} {first.key}  {first.name}")
        print(f"ran {first.wall_s:.1f} s on {first.host}; files in {first.location}")
        print(json.dumps(first.identity, indent=2))
        return 0
    second = _found(store, arguments.key2)
    print(f"{first.key}  {first.name}\n{second.key}  {second.name}")
    differences = list(differing(first.identity, second.identity))
    for path, left, right in differences:
        print(f"  {path}: {left} | {right}")
        if path.endswith(".key"):
            print(f"    (w2s explain {left} {right} says how these inputs differ)")
    if not differences:
        print("  no field differs: the same stage")
    return 0


def _found(store: ArtifactStore, key: str) -> StageRecord:
    record = store.find(key)
    if record is None:
        raise UserError(
            f"no stage with key {key!r} in the store {store.root}; `w2s plan FILE --keys` lists a "
            "sweep's keys, --store names another store"
        )
    return record


def differing(left: Any, right: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, value, value) for every leaf in which two JSON values differ; `-`: it has none."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for name in dict.fromkeys([*left, *right]):
            below = f"{path}.{name}" if path else name
            yield from differing(left.get(name, _ABSENT), right.get(name, _ABSENT), below)
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            yield from differing(a, b, f"{path}.{index}")
    elif left != right:
        yield path, _shown(left), _shown(right)


_ABSENT = object()


def _shown(value: Any) -> str:
    return "-" if value is _ABSENT else value if isinstance(value, str) else json.dumps(value)
