"""The gateway before a toy app, over real sockets."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from serving.errors import ServingInputError
from serving.gateway import check_key, gateway, is_loopback, split_url
from serving.howto import describe
from serving.models import Endpoint

KEY = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {KEY}"}


class Behind:
    """An app that remembers what reached it, and streams slowly."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.ended = asyncio.Event()
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request: Request) -> Any:
        self.seen.append((request.method, str(request.url.path), dict(request.headers)))
        if request.url.path.endswith("/endless"):
            return StreamingResponse(self._pieces(), media_type="text/event-stream")
        body = (await request.body()).decode()
        echo = {"body": body, "query": request.url.query}
        return JSONResponse(echo, status_code=201, headers={"x-model": "m"})

    async def _pieces(self) -> AsyncIterator[str]:
        try:
            for number in range(100_000):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.01)
        finally:
            self.ended.set()


@contextlib.asynccontextmanager
async def open_door() -> AsyncIterator[tuple[Behind, httpx.AsyncClient]]:
    """The toy app behind a gateway that knows two models, and a client without a key."""
    behind = Behind()
    config = uvicorn.Config(behind.app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    inner = f"http://127.0.0.1:{port}"
    async with (
        gateway("127.0.0.1", 0, KEY, inner, ["/m", "/owner/n"]) as url,
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        yield behind, client
    server.should_exit = server.force_exit = True
    await running


@pytest.mark.parametrize(
    "path", ["/m/v1/models", "/m/metrics", "/m/v1/completions", "/", "/-/routes", "/nothing"]
)
@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": ""},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"api-key": KEY},
    ],
)
def test_request_without_the_key_gets_401_whatever_it_asks_for(path: str, header: dict[str, str]):
    async def script() -> None:
        async with open_door() as (behind, client):
            for method in ("GET", "POST"):
                answer = await client.request(method, path, headers=header)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in answer.text
            query = await client.get(f"{path}?api_key={KEY}")
            assert query.status_code == 401
            assert behind.seen == []

    asyncio.run(script())


def test_request_with_the_key_goes_on_without_it_and_its_answer_comes_back():
    async def script() -> None:
        async with open_door() as (behind, client):
            answer = await client.post("/m/v1/x?a=1&b=%2F", headers=BEARER, content="hello")
            assert (answer.status_code, answer.headers["x-model"]) == (201, "m")
            assert answer.json() == {"body": "hello", "query": "a=1&b=%2F"}
            assert (await client.get("/owner/n", headers=BEARER)).status_code == 201
            assert [path for _, path, _ in behind.seen] == ["/m/v1/x", "/owner/n"]
            assert all("authorization" not in headers for _, _, headers in behind.seen)

    asyncio.run(script())


@pytest.mark.parametrize("path", ["/-/routes", "/mm/v1", "/owner", "/m/%2e%2e/-/routes", "/"])
def test_only_the_models_are_behind_it(path: str):
    async def script() -> None:
        async with open_door() as (behind, client):
            assert (await client.get(path, headers=BEARER)).status_code == 404
            assert behind.seen == []

    asyncio.run(script())


def test_streams_come_piece_by_piece_and_end_when_the_caller_hangs_up():
    async def script() -> None:
        async with open_door() as (behind, client):
            async with client.stream("GET", "/m/endless", headers=BEARER) as answer:
                pieces = answer.aiter_text()
                assert (await anext(pieces)).startswith("data: 0")
            await asyncio.wait_for(behind.ended.wait(), 60)

    asyncio.run(script())


def test_key_is_in_no_log(caplog: pytest.LogCaptureFixture):
    async def script() -> None:
        async with open_door() as (_, client):
            await client.get("/m/v1", headers=BEARER)
            await client.get("/m/v1", headers={"Authorization": f"Bearer {KEY}x"})

    with caplog.at_level(logging.DEBUG):
        asyncio.run(script())
    assert "/m/v1" in caplog.text
    assert KEY not in caplog.text


def test_a_model_that_is_gone_is_a_bad_gateway():
    async def script() -> None:
        async with (
            gateway("127.0.0.1", 0, KEY, "http://127.0.0.1:9", ["/m"]) as url,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            assert (await client.get(f"{url}/m", headers=BEARER)).status_code == 502

    asyncio.run(script())


def test_taken_port_is_told():
    async def script() -> None:
        async with gateway("127.0.0.1", 0, KEY, "http://127.0.0.1:9", ["/m"]) as url:
            port = int(url.rpartition(":")[2])
            with pytest.raises(ServingInputError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
                async with gateway("127.0.0.1", port, KEY, "http://127.0.0.1:9", ["/m"]):
                    pass

    asyncio.run(script())


@pytest.mark.parametrize("key", ["short", "with spaces in the middle", "überlangerschlüssel"])
def test_key_that_could_be_guessed_or_not_sent_is_refused_without_being_told(key: str):
    with pytest.raises(ServingInputError, match=f"in NAME has {len(key)} characters") as caught:
        check_key(key, "NAME")
    assert key not in str(caught.value)


def test_missing_key_is_refused_with_the_way_to_set_it():
    with pytest.raises(ServingInputError, match=r"NAME is not set.*export NAME="):
        check_key("", "NAME")


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.3", False),
        ("example.org", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, inside: bool):
    assert is_loopback(host) is inside


def test_calls_name_the_variable_and_not_the_key():
    endpoint = Endpoint("m", "", "http://10.0.0.1:8000/m/v1", "app")
    text = describe([endpoint], key_name="W2S_API_KEY")
    assert 'Authorization: Bearer $W2S_API_KEY"' in text
    assert 'api_key=os.environ["W2S_API_KEY"]' in text
    assert split_url(endpoint.root_url) == ("http://10.0.0.1:8000", "/m")
