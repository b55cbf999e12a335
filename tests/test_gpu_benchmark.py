"""The benchmark of finetuning on a GPU, ready for the day there is one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_finetune.py"


@pytest.mark.slow
def test_it_runs_on_a_toy_and_trains_as_many_updates_in_either_loop() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--json"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    cases = {row["case"]: row for row in found["rows"]}
    assert set(cases) == {"ours full", "trainer full", "ours lora", "trainer lora"}
    assert all(row["tokens_per_s"] > 0 and row["mfu"] > 0 for row in cases.values())
    assert 0 < cases["ours full"]["padding_share"] < 0.25
