"""A sweep whose judge is behind a URL: a spent budget ends it cleanly, a higher one finishes it."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FILE = """
name = "judged"
seeds = [0]
[task]
kind = "almanac"
[task.world]
seed = 100
num_quiz = 16
num_dev = 8
num_weak_train = 16
num_strong_train = 20
num_val = 10
num_test = 25
[[ladder]]
name = "only"
architecture = {{ hidden_size = 32, num_layers = 2, num_heads = 1, intermediate_size = 64 }}
[ladder.corpus]
kind = "almanac"
rare_share = 0.4
custom_share = 0.5
recall = 0.01
verdict = 0.01
check_every = 5
read_cooldown = 5
practise_cooldown = 5
[[speakers]]
name = "gpt"
model = "gpt-4o"
base_url = "{url}"
api_key_variable = "W2S_TEST_KEY"
chat = true
[[blocks]]
name = "judged"
pairs = "equal"
methods = ["naive", {{ kind = "judge", judge = "gpt", reads = "naive" }}]
"""


class Chat(BaseHTTPRequestHandler):
    """Says yes more often than no, and counts what it is asked."""

    asked: ClassVar[Counter[str]] = Counter()
    keys: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "gpt-4o"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked[body["messages"][0]["content"]] += 1
        self.keys.add(self.headers["Authorization"])
        top = [{"token": "Yes", "logprob": -0.4}, {"token": "No", "logprob": -1.2}]
        choice = {"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": top}]}}
        usage = {"prompt_tokens": 10, "completion_tokens": 1}
        self._reply({"choices": [{**choice, "finish_reason": "stop"}], "usage": usage})

    def _reply(self, reply: object) -> None:
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def w2s(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    whole = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    whole.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=whole,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )


def test_a_budget_ends_what_needs_it_and_nothing_else_and_is_gone_on_from(
    tmp_path: Path, url: str
) -> None:
    (tmp_path / "sweep.toml").write_text(FILE.format(url=url))
    budget = "--set=speakers.0.max_requests="

    keyless = w2s(tmp_path, "run", "sweep.toml")
    assert keyless.returncode == 2
    assert "the environment variable W2S_TEST_KEY is not set" in keyless.stderr

    key = {"W2S_TEST_KEY": "secret"}
    stopped = w2s(tmp_path, "run", "sweep.toml", f"{budget}7", **key)
    assert stopped.returncode == 3, stopped.stdout + stopped.stderr
    assert "stopped: the budget of judged/gpt is spent: 7 of 7 requests" in stopped.stderr
    assert "speaker gpt: 7 requests, 70 tokens in, 7 out" in stopped.stdout
    assert Chat.asked.total() == 7
    # The other cell is whole, and the report is there.
    assert (tmp_path / "reports" / "judged" / "report.html").is_file()

    finished = w2s(tmp_path, "run", "sweep.toml", f"{budget}1000", **key)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert set(Chat.asked.values()) == {1}
    assert Chat.asked.total() > 7
    assert Chat.keys == {"Bearer secret"}
    everything = [finished.stdout, finished.stderr, stopped.stdout, stopped.stderr]
    assert not any("secret" in text for text in everything)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.stat().st_size < 1_000_000:
            assert b"Bearer secret" not in path.read_bytes(), path
