"""Answers are kept: over calls, over processes, and over a process that is killed."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from serving.backends.scripted import ScriptedTransport
from serving.cache import AnswerCache, CachingClient
from serving.client import BatchingClient
from serving.messages import Completion, Sampling

NUM_PROMPTS = 40


def client(path: Path, transport: ScriptedTransport, digest: str = "d") -> CachingClient:
    return CachingClient(BatchingClient(transport), AnswerCache(path), digest)


def test_only_what_differs_in_model_prompt_sampling_or_seed_is_asked_again(tmp_path: Path) -> None:
    transport = ScriptedTransport(("a b", "c d", "e f"))
    path = tmp_path / "answers.sqlite"
    short = Sampling(max_tokens=1)

    async def run() -> list[list[str]]:
        found = []
        for digest, prompts, sampling, seeds in [
            ("d", ["p", "q"], Sampling(), [0, 1]),
            ("d", ["q", "r", "p"], Sampling(), [1, 2, 0]),
            ("d", ["p"], Sampling(), [1]),
            ("d", ["p"], short, [0]),
            ("other", ["p"], Sampling(), [0]),
        ]:
            asked = len(transport.prompts)
            done: dict[int, Completion] = {}
            answers = await client(path, transport, digest).complete(
                prompts, sampling, seeds, done.__setitem__
            )
            assert [done[index] for index in range(len(prompts))] == answers
            found.append([*(answer.text for answer in answers), *transport.prompts[asked:]])
        return found

    assert asyncio.run(run()) == [
        ["a b", "c d", "p", "q"],
        ["c d", "e f", "a b", "r"],
        ["c d", "p"],
        ["a", "p"],
        ["a b", "p"],
    ]


def test_scores_are_kept_by_prompt_and_choices(tmp_path: Path) -> None:
    transport = ScriptedTransport(("a",))
    path = tmp_path / "answers.sqlite"

    async def run() -> None:
        first = await client(path, transport).score(["yes", "no"], ["yes", "no"])
        again: dict[int, tuple[float, ...]] = {}
        assert await client(path, transport).score(["no"], ["yes", "no"], again.__setitem__) == [
            first[1]
        ]
        assert again == {0: first[1]}
        await client(path, transport).score(["no"], ["no", "yes"])

    asyncio.run(run())
    assert transport.prompts == ["yes", "no", "no"]


def test_of_two_answers_to_one_question_the_first_that_was_written_counts(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"

    async def run() -> list[str]:
        ends = await asyncio.gather(
            client(path, ScriptedTransport(("one",))).complete(["p"], Sampling(), [0]),
            client(path, ScriptedTransport(("two",))).complete(["p"], Sampling(), [0]),
        )
        return [end[0].text for end in ends]

    first, second = asyncio.run(run())
    assert first == second


def test_a_known_completion_streams_without_a_request(tmp_path: Path) -> None:
    transport = ScriptedTransport(("a b c",))

    async def run() -> tuple[list[str], list[str]]:
        cached = client(tmp_path / "answers.sqlite", transport)
        asked = [piece async for piece in cached.stream("p", Sampling(), 0)]
        await cached.complete(["p"], Sampling(), [0])
        return asked, [piece async for piece in cached.stream("p", Sampling(), 0)]

    assert asyncio.run(run()) == (["a", " b", " c"], ["a b c"])
    assert transport.prompts == ["p", "p"]


class Paid(BaseHTTPRequestHandler):
    """Counts what it is asked, and never says the same thing twice."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked[body["prompt"]] += 1
        time.sleep(0.05)
        text = f"answer {self.asked.total()}"
        choice = {"index": 0, "text": text, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2}
        self._reply({"choices": [choice], "usage": usage})

    def _reply(self, reply: object) -> None:
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def paid() -> Iterator[str]:
    Paid.asked = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Paid)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


ASK = """
import asyncio, sys
from serving.backends.openai_api import OpenaiApi
from serving.client import RequestPolicy
from serving.messages import Sampling
from serving.models import Placement, ServedModel

url, folder, number = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def run():
    backend = OpenaiApi(base_url=url, folder=folder)
    endpoint = backend.deploy(ServedModel(name="m", path="m", digest="d"), Placement())
    client = backend.client(endpoint, RequestPolicy(max_requests_in_flight=4))
    prompts = [f"p{index}" for index in range(number)]
    answers = await client.complete(
        prompts, Sampling(), range(number), lambda index, _: print("done", index, flush=True)
    )
    await client.aclose()
    print(*sorted(answer.text for answer in answers), sep="\\n", flush=True)

asyncio.run(run())
"""


def start(url: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", ASK, url, str(folder), str(NUM_PROMPTS)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_is_killed_loses_no_answer_that_it_had_and_the_next_asks_only_the_rest(
    paid: str, tmp_path: Path
) -> None:
    first = start(paid, tmp_path)
    assert first.stdout is not None
    had = [first.stdout.readline() for _ in range(NUM_PROMPTS // 2)]
    first.send_signal(signal.SIGKILL)
    had += first.stdout.readlines()
    first.wait()
    finished = {f"p{line.split()[1]}" for line in had if line.startswith("done")}
    assert NUM_PROMPTS // 2 <= len(finished) < NUM_PROMPTS
    before = Counter(Paid.asked)

    second = start(paid, tmp_path)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    again = Paid.asked - before
    # Not asked again: all that was answered. Asked twice: at most what was in flight.
    assert not finished & set(again)
    assert len(again) + len(finished) <= NUM_PROMPTS
    assert max(Paid.asked.values()) <= 2
    assert sum(count == 2 for count in Paid.asked.values()) <= 4

    third = start(paid, tmp_path)
    assert (
        third.communicate(timeout=60)[0].splitlines()[-NUM_PROMPTS:]
        == (output.splitlines()[-NUM_PROMPTS:])
    )
    assert Paid.asked == before + again


def test_processes_share_a_cache(paid: str, tmp_path: Path) -> None:
    both = [start(paid, tmp_path) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0].splitlines() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first[-NUM_PROMPTS:] == second[-NUM_PROMPTS:]
