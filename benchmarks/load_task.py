"""Reading, mending, splitting and balancing a large table: CPU seconds and peak memory.

    python benchmarks/load_task.py [--json] [--rows 500000]

Reviews of 60 random words, 60 % of them of one class, lie in one parquet file, which the task
`amazon_polarity` cuts into four splits. Memory is the peak of the process that loads, with what
its imports take.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from w2s.tasks.amazon_polarity import AmazonPolarity

CHUNK_ROWS = 50_000


def write(file: Path, num_rows: int) -> None:
    """Reviews of random words."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{index}" for index in range(5000)])
    texts = []
    for start in range(0, num_rows, CHUNK_ROWS):
        chosen_RW = words[rng.integers(0, len(words), (min(CHUNK_ROWS, num_rows - start), 60))]
        texts += [" ".join(row) for row in chosen_RW]
    labels = (rng.random(num_rows) < 0.6).astype(int)
    pd.DataFrame({"title": "a title", "content": texts, "label": labels}).to_parquet(file)


def measure(file: Path) -> dict[str, float]:
    """CPU seconds and peak memory of one load in this process."""
    start = time.process_time()
    data = AmazonPolarity(path=str(file)).load()
    return {
        "cpu_seconds": round(time.process_time() - start, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "rows_kept": sum(map(len, data.rows.values())),
    }


def main() -> None:
    """Write the table, load it in a fresh process, print the figures."""
    parser = argparse.ArgumentParser(description="CPU seconds and peak memory of loading a table")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the table")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.file:
        print(json.dumps(measure(given.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reviews.parquet"
        write(file, given.rows)
        command = [sys.executable, __file__, "--file", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {"rows": given.rows, **json.loads(done.stdout)}
    print("     rows      kept    CPU s  peak MB")
    rows, kept = found["rows"], found["rows_kept"]
    print(f"{rows:>9,} {kept:>9,} {found['cpu_seconds']:>8} {found['peak_mb']:>8}")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
