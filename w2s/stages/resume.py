"""Results that a stage of the `serve` lane appends as they come, for the attempt after a crash."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def finished_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file with one a line; a line that was cut off is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield row


@contextmanager
def appending(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends one JSON object as a line of a file, at once.

    What it appends can be read by `finished_lines`, also where an earlier attempt ended in the
    middle of a line.
    """
    with path.open("a", encoding="utf-8") as file:
        if path.stat().st_size:
            file.write("\n")  # the last line may have been cut off

        def append(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        yield append
