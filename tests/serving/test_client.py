import asyncio
import json
import math
import pickle
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from serving.backends.openai_api import OpenaiApi, first_token_scores
from serving.backends.scripted import ScriptedTransport
from serving.budget import Ledger, Limits, Usage
from serving.client import BatchingClient, CompletionClient, RequestPolicy
from serving.errors import BudgetSpent, CompletionFailed, ServingInputError, TransientFailure
from serving.messages import Completion, Sampling, seed_of
from serving.models import Endpoint, Placement, ServedModel

FAST = RequestPolicy(base_delay_s=0.001, max_delay_s=0.002, max_attempts=3, timeout_s=5)
MODEL = ServedModel(name="m", path="org/m", digest="d")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(completions: Handler):
    """An OpenAI-compatible stub on the loopback; yields its base URL."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "org/m"}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/v1/chat/completions", completions)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def completion(text: str) -> web.Response:
    choice = {"index": 0, "text": text, "finish_reason": "length"}
    return web.json_response({"choices": [choice], "usage": {"completion_tokens": 2}})


async def ask(
    handler: Handler,
    num_prompts: int,
    policy: RequestPolicy = FAST,
    sampling: Sampling | None = None,
) -> list[Completion]:
    async with server(handler) as url:
        backend = OpenaiApi(base_url=url)
        endpoint = (await asyncio.to_thread(backend.deploy_all, [MODEL], Placement()))["m"]
        client = backend.client(endpoint, policy)
        prompts = [f"p{index}" for index in range(num_prompts)]
        try:
            return await client.complete(prompts, sampling or Sampling(), range(num_prompts))
        finally:
            await client.aclose()


def test_each_prompt_travels_with_its_own_seed_and_comes_back_in_order():
    bodies = []

    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        bodies.append(body)
        await asyncio.sleep(0.01 * (3 - body["seed"]))
        return completion(f"{body['prompt']}-{body['seed']}")

    sampling = Sampling(max_tokens=2, stop=("x",))
    answers = asyncio.run(ask(handler, 3, sampling=sampling))
    assert answers == [Completion(f"p{i}-{i}", 2, "length") for i in range(3)]
    assert bodies[0] == {
        "model": "org/m",
        "prompt": "p0",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 2,
        "seed": 0,
        "stop": ["x"],
    }


def test_overload_is_retried_until_it_passes():
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=503) if calls < 3 else completion("ok")

    assert asyncio.run(ask(handler, 1))[0].text == "ok"
    assert calls == 3


def test_attempts_are_bounded_and_the_error_names_the_last_cause():
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=429, text="slow down")

    with pytest.raises(CompletionFailed, match=r"3 attempts.*429: slow down"):
        asyncio.run(ask(handler, 1))
    assert calls == 3


def test_refused_request_is_not_retried():
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=400, text="prompt too long")

    with pytest.raises(CompletionFailed, match=r"400: prompt too long"):
        asyncio.run(ask(handler, 1))
    assert calls == 1


def test_requests_in_flight_are_bounded():
    now, most = 0, 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return completion("ok")

    policy = FAST.model_copy(update={"max_requests_in_flight": 3})
    assert len(asyncio.run(ask(handler, 20, policy))) == 20
    assert most == 3


def test_answer_that_never_comes_counts_as_a_failed_attempt():
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return completion("late")

    policy = FAST.model_copy(update={"timeout_s": 0.05, "max_attempts": 2})
    with pytest.raises(CompletionFailed, match=r"2 attempts"):
        asyncio.run(ask(handler, 1, policy))


def test_stream_gives_the_pieces_of_the_text():
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in ("a", " b"):
            await response.write(f'data: {{"choices": [{{"text": "{piece}"}}]}}\n\n'.encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def run() -> list[str]:
        async with server(handler) as url:
            backend = OpenaiApi(base_url=url)
            endpoint = await asyncio.to_thread(backend.deploy, MODEL, Placement())
            client = backend.client(endpoint)
            pieces = [piece async for piece in client.stream("p", Sampling(), 1)]
            await client.aclose()
            return pieces

    assert asyncio.run(run()) == ["a", " b"]


def test_unreachable_server_and_unknown_model_are_told_before_any_request():
    with pytest.raises(ServingInputError, match=r"no answer from http://127.0.0.1:9/v1/models"):
        OpenaiApi(base_url="http://127.0.0.1:9/v1").deploy(MODEL, Placement())

    async def handler(request: web.Request) -> web.Response:
        return completion("ok")

    async def run() -> None:
        async with server(handler) as url:
            other = ServedModel(name="n", path="org/n")
            await asyncio.to_thread(OpenaiApi(base_url=url).deploy, other, Placement())

    with pytest.raises(ServingInputError, match=r"no model 'org/n'; available: org/m"):
        asyncio.run(run())


def test_prompts_are_batched_where_the_transport_seeds_each_of_them():
    sizes: list[int] = []
    handed: list[int] = []

    class Counting(ScriptedTransport):
        async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
            sizes.append(len(prompts))
            return await super().send(prompts, sampling, seeds, timeout_s)

    async def run() -> list[Completion]:
        policy = FAST.model_copy(update={"prompts_per_request": 4})
        client = BatchingClient(Counting(("a", "b", "c")), policy)
        return await client.complete(
            ["p"] * 10, Sampling(), range(10), lambda index, _: handed.append(index)
        )

    answers = asyncio.run(run())
    assert sizes == [4, 4, 2]
    assert [answer.text for answer in answers] == [("a", "b", "c")[seed % 3] for seed in range(10)]
    assert sorted(handed) == list(range(10))


def test_first_failure_cancels_the_requests_beside_it():
    finished = []

    class OneFails(ScriptedTransport):
        async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
            if seeds[0] == 0:
                raise CompletionFailed("broken")
            await asyncio.sleep(0.2)
            finished.append(seeds[0])
            return await super().send(prompts, sampling, seeds, timeout_s)

    async def run() -> None:
        policy = FAST.model_copy(update={"prompts_per_request": 1})
        await BatchingClient(OneFails(("a",)), policy).complete(["p"] * 3, Sampling(), range(3))

    with pytest.raises(CompletionFailed, match=r"broken"):
        asyncio.run(run())
    assert finished == []


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts, which the test does not sit out."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def record(delay_s: float) -> None:
        waited.append(delay_s)
        await sleep(0)

    monkeypatch.setattr("serving.client.asyncio.sleep", record)
    return waited


def test_delays_double_up_to_the_bound_and_respect_the_servers_wish(delays: list[float]):
    class Busy(ScriptedTransport):
        async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
            raise TransientFailure("busy", retry_after_s=7.0 if len(delays) == 4 else None)

    async def run() -> None:
        policy = RequestPolicy(max_attempts=6, base_delay_s=1.0, max_delay_s=4.0)
        await BatchingClient(Busy(("a",)), policy).complete(["p"], Sampling(), [1])

    with pytest.raises(CompletionFailed):
        asyncio.run(run())
    assert len(delays) == 5
    assert all(delay <= bound for delay, bound in zip(delays, (1, 2, 4, 4), strict=False))
    assert delays[4] == 7.0


def words_after(prompt: str, logprobs: dict[str, float]) -> tuple[list[str], list[float | None]]:
    """Tokens of a text, one a word with its leading space, and canned log-probabilities."""
    tokens = [word if index == 0 else f" {word}" for index, word in enumerate(prompt.split(" "))]
    return tokens, [None, *(logprobs.get(token, -9.0) for token in tokens[1:])]


def echo(body: dict, logprobs: dict[str, float]) -> web.Response:
    """The reply of a server that echoes its prompts, in an order of its own."""
    assert (body["echo"], body["max_tokens"], body["logprobs"]) == (True, 0, 1)
    choices = []
    for index, text in enumerate(body["prompt"]):
        tokens, values = words_after(text, logprobs)
        told = {"tokens": tokens, "token_logprobs": values}
        choices.append({"index": index, "text": text, "logprobs": told})
    return web.json_response({"choices": choices[::-1]})


async def ask_scores(
    handler: Handler, prompts: list[str], choices: list[str], top_logprobs: int = 0
) -> list[tuple[float, ...]]:
    async with server(handler) as url:
        backend = OpenaiApi(base_url=url, top_logprobs=top_logprobs)
        endpoint = await asyncio.to_thread(backend.deploy, MODEL, Placement())
        client = backend.client(endpoint, FAST)
        try:
            return await client.score(prompts, choices)
        finally:
            await client.aclose()


def test_scores_are_sums_over_the_echoed_tokens_of_each_choice():
    bodies = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return echo(bodies[-1], {" 1": -0.5, " 0": -1.0, " not": -2.0, " sure": -0.25})

    scores = asyncio.run(ask_scores(handler, ["x is", "y is"], [" 1", " 0", " not sure"]))
    assert scores == [(-0.5, -1.0, -2.25)] * 2
    texts = sorted((body["prompt"] for body in bodies), key=lambda prompts: prompts[0])
    assert texts[0] == ["x is", "x is 1", "x is 0", "x is not sure"]
    assert "seed" not in bodies[0]


def test_overload_is_retried_when_choices_are_scored():
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.Response(status=503) if calls < 3 else echo(await request.json(), {" 1": -1.0})

    assert asyncio.run(ask_scores(handler, ["x is"], [" 1"])) == [(-1.0,)]
    assert calls == 3


def test_server_that_does_not_echo_is_told_apart_and_the_way_out_is_named():
    async def without_logprobs(request: web.Request) -> web.Response:
        return completion("x is 1")

    async def only_new_tokens(request: web.Request) -> web.Response:
        told = {"tokens": [" and"], "token_logprobs": [-1.0]}
        choices = [{"index": i, "text": " and", "logprobs": told} for i in range(3)]
        return web.json_response({"choices": choices})

    async def refuses(request: web.Request) -> web.Response:
        return web.Response(status=400, text="echo is not supported")

    for handler in (without_logprobs, only_new_tokens, refuses):
        with pytest.raises(CompletionFailed, match=r"must echo a prompt.*set top_logprobs"):
            asyncio.run(ask_scores(handler, ["x is"], [" 1", " 0"]))


def test_choices_are_found_among_the_most_likely_first_tokens_or_refused():
    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        assert (body["logprobs"], body["max_tokens"], body["prompt"]) == (3, 1, "x is")
        told = {"top_logprobs": [{" 1": -0.5, " 0": -1.5, " the": -3.0}]}
        return web.json_response({"choices": [{"index": 0, "text": " 1", "logprobs": told}]})

    def scores(*choices: str) -> list[tuple[float, ...]]:
        return asyncio.run(ask_scores(handler, ["x is"], list(choices), top_logprobs=3))

    assert scores(" 0", " 1") == [(-1.5, -0.5)]
    # One that is not listed is at most as likely as the last that is.
    assert scores(" 1", " no") == [(-0.5, -3.0)]
    with pytest.raises(CompletionFailed, match=r"none of ' yes', ' no' is among .*' the'.*raise"):
        scores(" yes", " no")


def chat(content: str | None, **more: object) -> web.Response:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    choice = {"index": 0, "message": {"content": content}, "finish_reason": "stop", **more}
    return web.json_response({"choices": [choice], "usage": usage})


async def with_chat(handler: Handler, use: Callable[..., Awaitable[object]], **fields: object):
    """What `use` makes of a client of a chat server."""
    async with server(handler) as url:
        backend = OpenaiApi.model_validate({"base_url": url, "chat": True, **fields})
        endpoint = await asyncio.to_thread(backend.deploy, MODEL, Placement())
        client = backend.client(endpoint, FAST)
        try:
            return await use(client)
        finally:
            await client.aclose()


def test_a_chat_gets_the_prompt_as_a_message_and_the_schema_that_its_answer_obeys():
    bodies = []

    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return chat("fine" if len(bodies) == 1 else None)

    sampling = Sampling(max_tokens=9, json_schema='{"type": "object"}')
    answers = asyncio.run(
        with_chat(
            handler,
            lambda client: client.complete(["p", "q"], sampling, [3, 4]),
            system="Be brief.",
            token_limit="max_completion_tokens",
        )
    )
    assert answers == [Completion("fine", 2, "stop", 7), Completion("", 2, "stop", 7)]
    assert bodies[0] == {
        "model": "org/m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "p"},
        ],
        "temperature": 1.0,
        "top_p": 1.0,
        "max_completion_tokens": 9,
        "seed": 3,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_a_chat_scores_label_words_whatever_space_and_case_they_come_in():
    listed = {"Yes": -0.5, "No": -1.0, " no": -1.0, "Hm": -2.0}
    top = [{"token": token, "logprob": logprob} for token, logprob in listed.items()]

    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
        return chat("Yes", logprobs={"content": [{"token": "Yes", "top_logprobs": top}]})

    scores = asyncio.run(with_chat(handler, lambda client: client.score(["p"], [" yes", " no"])))
    assert scores == [(-0.5, pytest.approx(-1.0 + math.log(2)))]
    # Case counts where the choices differ in nothing else.
    tops = list(listed.items())
    assert first_token_scores(tops, ["No", "no"], loosely=True) == (-1.0, -1.0)
    assert first_token_scores([("A", -0.1), ("a", -3.0)], ["a", "A"], loosely=True) == (-3.0, -0.1)


def test_a_chat_streams_what_its_answer_is_made_of():
    async def handler(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["stream_options"] == {"include_usage": True}
        response = web.StreamResponse()
        await response.prepare(request)
        for delta in ({"role": "assistant"}, {"content": "a"}, {"content": " b"}):
            event = json.dumps({"choices": [{"delta": delta}]})
            await response.write(f"data: {event}\n\n".encode())
        usage = '{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}'
        await response.write(f"data: {usage}\n\ndata: [DONE]\n\n".encode())
        return response

    async def pieces(client: CompletionClient) -> list[str]:
        return [piece async for piece in client.stream("p", Sampling(), 1)]

    assert asyncio.run(with_chat(handler, pieces)) == ["a", " b"]


def test_the_key_comes_from_the_environment_and_travels_hidden(monkeypatch: pytest.MonkeyPatch):
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return completion("ok")

    async def run(backend: OpenaiApi) -> None:
        endpoint = Endpoint(model="org/m", digest="d", base_url=backend.base_url, app="")
        client = backend.client(endpoint, FAST)
        await client.complete(["p"], Sampling(), [1])
        await client.aclose()

    async def both() -> None:
        async with server(handler) as url:
            backend = OpenaiApi(base_url=url, api_key_variable="W2S_TEST_KEY")
            with pytest.raises(ServingInputError, match="variable W2S_TEST_KEY is not set"):
                backend.with_key()
            monkeypatch.setenv("W2S_TEST_KEY", "secret")
            there = pickle.loads(pickle.dumps(backend.with_key()))
            monkeypatch.delenv("W2S_TEST_KEY")
            assert "secret" not in f"{there!r} {there.model_dump_json()}"
            await run(there)

    asyncio.run(both())
    assert seen == ["Bearer secret"]


def test_a_spent_budget_ends_a_call_after_what_was_in_flight_and_is_not_retried(tmp_path: Path):
    asked, handed = [], []

    async def handler(request: web.Request) -> web.Response:
        asked.append((await request.json())["seed"])
        await asyncio.sleep(0.02)
        return chat("ok")

    def ask_all(client: CompletionClient) -> Awaitable[object]:
        return client.complete(
            [f"p{i}" for i in range(6)], Sampling(), range(6), lambda i, _: handed.append(i)
        )

    fields = {"limits": Limits(max_requests=4), "folder": str(tmp_path), "account": "s/gpt"}
    for _ in range(2):
        with pytest.raises(BudgetSpent, match=r"s/gpt is spent: 4 of 4 requests"):
            asyncio.run(with_chat(handler, ask_all, **fields))
        # The second time they come from the cache.
        assert sorted(handed) == [0, 1, 2, 3]
        handed.clear()
    assert sorted(asked) == [0, 1, 2, 3]
    assert Ledger(tmp_path / "spent.sqlite").spent("s/gpt") == Usage(4, 28, 8)
    fields["limits"] = Limits(max_requests=6)
    answers = asyncio.run(with_chat(handler, ask_all, **fields))
    assert answers == [Completion("ok", 2, "stop", 7)] * 6
    assert sorted(asked) == list(range(6))


def test_scores_come_in_the_order_of_the_prompts_however_they_are_batched():
    handed: dict[int, tuple[float, ...]] = {}
    sizes: list[int] = []

    class Counting(ScriptedTransport):
        async def score(self, prompts, choices, timeout_s) -> list[tuple[float, ...]]:
            sizes.append(len(prompts))
            await asyncio.sleep(0.01 * (3 - len(sizes)))
            return await super().score(prompts, choices, timeout_s)

    async def run() -> list[tuple[float, ...]]:
        policy = FAST.model_copy(update={"prompts_per_request": 2})
        client = BatchingClient(Counting(("a",)), policy)
        prompts = ["yes " * count for count in range(5)]
        return await client.score(prompts, ["yes", "no"], handed.__setitem__)

    scores = asyncio.run(run())
    # With n times `yes` in the prompt the script says yes in n + 1 of n + 2 cases.
    assert [math.exp(score[0]) for score in scores] == pytest.approx(
        [1 / 2, 2 / 3, 3 / 4, 4 / 5, 5 / 6]
    )
    assert sizes == [2, 2, 1]
    assert [handed[index] for index in range(5)] == scores


def test_seeds_tell_coordinates_apart_and_stay_the_same():
    assert seed_of("row", 1) == seed_of("row", 1) == 1784656587
    assert len({seed_of("row", 1), seed_of("row", "1"), seed_of("row1"), seed_of(1, "row")}) == 4
    assert all(0 <= seed_of("x", index) < 2**31 for index in range(100))
