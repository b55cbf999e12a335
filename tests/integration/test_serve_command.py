"""`w2s serve`: teachers that a sweep has not kept are finetuned, all come up, Ctrl-C ends it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.serving.tiny import save_language_model

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SWEEP = """
name = "served"
seeds = [0]
[task]
kind = "sst2"
path = "{fixtures}/sst2"
[[ladder]]
name = "a"
model = "a"
[[ladder]]
name = "b"
model = "b"
[supervisor]
mode = "lora"
epochs = 1
[[blocks]]
name = "pairs"
pairs = [["a", "b"], ["b", "b"]]
[runtime.serve]
metrics = true
"""
ARGUMENTS = ("serve", "sweep.toml", "--teachers", "--models", "a", "--port", "0")
PATIENCE_S = 60.0
"""Time for a clean end; bounds the test, measures nothing."""


@dataclass
class Command:
    """A command that serves, and what it printed before it was up."""

    process: "subprocess.Popen[str]"
    printed: str


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("serve")
    for seed, name in enumerate("ab"):
        save_language_model(folder / name, seed=seed)
    (folder / "sweep.toml").write_text(SWEEP.format(fixtures=ROOT / "tests" / "fixtures"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", *ARGUMENTS],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("up;"):
            break
    yield Command(process, "".join(lines))
    process.kill()


def test_teachers_and_models_come_up_together_and_answer(command: Command):
    assert "finetuning 2 of 2 teachers" in command.printed
    urls = dict(re.findall(r"^(\S+) +(http://\S+)$", command.printed, re.MULTILINE))
    teachers = [name for name in urls if name.startswith("finetune-")]
    (writer,) = (name for name in urls if name not in teachers)
    assert len(teachers) == 2
    for name in teachers:
        body = {"model": name, "input": ["a fine film", "dull"]}
        data = httpx.post(urls[name], json=body, timeout=60).json()["data"]
        assert [len(each["probs"]) for each in data] == [2, 2]
        assert [sum(each["probs"]) for each in data] == pytest.approx([1.0, 1.0])
    body = {"model": writer, "prompt": "w1 w2", "max_tokens": 3, "ignore_eos": True}
    answer = httpx.post(f"{urls[writer]}/completions", json=body, timeout=60).json()
    assert answer["usage"]["completion_tokens"] == 3
    (page, *_) = re.findall(r"Prometheus metrics: (\S+)", command.printed)
    assert "vllm:" in httpx.get(page).text


def test_ctrl_c_ends_it_cleanly(command: Command):
    command.process.send_signal(signal.SIGINT)
    rest, _ = command.process.communicate(timeout=PATIENCE_S)
    assert command.process.returncode == 0, rest
    assert "Traceback" not in rest
