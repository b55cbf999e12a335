"""Ctrl-C in the middle of a sweep: nothing is left running, and the next run goes on from there."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from sweeps.store import ArtifactStore

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).parent / "small.toml"
PATIENCE_S = 30.0
"""A clean end takes a few seconds; this bounds the test, it measures nothing."""


def start(folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", "run", str(FILE)],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Where the tests run in the background of a shell, it would ignore what is tried here.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def read_until(process: "subprocess.Popen[str]", pattern: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if re.search(pattern, line):
            return
    raise AssertionError(f"the sweep ended without a line like {pattern!r}")


def test_an_interrupted_sweep_leaves_no_process_and_is_finished_by_the_next_run(
    tmp_path: Path,
) -> None:
    process = start(tmp_path)
    read_until(process, r"finetune done")
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 3
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "what was finished is kept" in printed
    assert "Traceback" not in printed
    deadline = time.monotonic() + PATIENCE_S
    while any(_alive(child) for child in family):
        assert time.monotonic() < deadline, [child.cmdline() for child in family if _alive(child)]
        time.sleep(0.2)
    finished = ArtifactStore(str(tmp_path / "w2s_store")).counts()
    assert finished["finetune"] >= 1

    second = start(tmp_path)
    printed, _ = second.communicate(timeout=600)
    assert second.returncode == 0, printed[-3000:]
    found = re.search(r"(\d+) stages ran, (\d+) were cached", printed)
    assert found
    assert int(found.group(2)) >= sum(finished.values())


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
