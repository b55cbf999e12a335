"""Results that a stage of the `serve` lane appends as they come, for the attempt after a crash."""

import json
from collections.abc import Iterator
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
