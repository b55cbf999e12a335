"""A door with a key: an HTTP server that asks for an API key and passes requests on to loopback.

Replicas listen on the loopback of the head node alone. Where they shall be reached from other
machines, a `Gateway` listens there: a request without the key is answered with 401 before anything
of it is read, whatever its path. The key stays in this process: replicas, Ray and their logs do
not know it. There is no TLS; put a proxy with a certificate in front where the network is not
trusted.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from serving.errors import ServingInputError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MIN_KEY_LENGTH = 16
"""Characters of an API key at least: what `openssl rand -hex 8` prints."""
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade host content-length".split()
)
"""Headers that belong to one connection; lengths are told anew."""
CLOSE_TIMEOUT_S = 5
"""Seconds that requests in flight get when the gateway closes."""


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_key(key: str, name: str) -> None:
    """Refuse a key that could be guessed or could not be sent.

    Args:
        key: what the environment variable holds.
        name: of that variable; the key itself is never told.

    Raises:
        ServingInputError: it is empty or short, or has characters that no header carries.
    """
    if not key:
        raise ServingInputError(
            f"the environment variable {name} is not set; put the API key into it: "
            f"export {name}=$(openssl rand -hex 32)"
        )
    if len(key) < MIN_KEY_LENGTH or not (key.isascii() and key.isprintable() and " " not in key):
        raise ServingInputError(
            f"the API key in {name} has {len(key)} characters; it takes {MIN_KEY_LENGTH} or more, "
            f"ASCII without spaces: export {name}=$(openssl rand -hex 32)"
        )


class Gateway:
    """An ASGI app that passes requests with the key on, and refuses all others."""

    def __init__(self, key: str, root_url: str, prefixes: Iterable[str], client: Any) -> None:
        """Make the app.

        Args:
            key: what requests must bring as `Authorization: Bearer KEY`.
            root_url: where requests go on to.
            prefixes: paths that are passed on with all below them (`/model`); others are not found.
            client: `httpx.AsyncClient` that sends them.
        """
        self._wanted = f"Bearer {key}".encode()
        self._root_url = root_url
        self._prefixes = tuple(prefixes)
        self._client = client

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request; see ASGI."""
        if scope["type"] != "http":
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        given = [value for name, value in headers if name == b"authorization"]
        # The time this takes tells nothing about the key.
        if len(given) != 1 or not hmac.compare_digest(given[0], self._wanted):
            await _refuse(send, 401, "a valid API key is needed: Authorization: Bearer KEY")
        elif not any(_is_below(scope["path"], prefix) for prefix in self._prefixes):
            await _refuse(send, 404, f"nothing here; there is {', '.join(self._prefixes)}")
        else:
            body = await _body(receive)
            answering = asyncio.ensure_future(self._pass_on(scope, body, send))
            hanging_up = asyncio.ensure_future(_hung_up(receive))
            await asyncio.wait((answering, hanging_up), return_when=asyncio.FIRST_COMPLETED)
            hanging_up.cancel()
            if not answering.done():  # else the engine would go on with what nobody waits for
                answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering

    async def _pass_on(self, scope: MutableMapping[str, Any], body: bytes, send: Send) -> None:
        import httpx

        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1")
        kept = [
            (name, value)
            for name, value in scope["headers"]
            if name not in HOP_BY_HOP and name != b"authorization"
        ]
        request = self._client.build_request(
            scope["method"],
            f"{self._root_url}{path}" + (f"?{query}" if query else ""),
            headers=kept,
            content=body,
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            await _refuse(send, 502, f"the model does not answer: {type(error).__name__}")
            return
        try:
            headers = [pair for pair in response.headers.raw if pair[0].lower() not in HOP_BY_HOP]
            status = response.status_code
            await send({"type": "http.response.start", "status": status, "headers": headers})
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


@asynccontextmanager
async def gateway(
    host: str, port: int, key: str, root_url: str, prefixes: Iterable[str]
) -> AsyncIterator[str]:
    """A `Gateway` that listens inside the block.

    Args:
        host: address to listen on.
        port: 0: a free one.
        key: see `Gateway`.
        root_url: see `Gateway`.
        prefixes: see `Gateway`.

    Returns:
        Its URL.

    Raises:
        ServingInputError: the address cannot be had.
    """
    import httpx
    import uvicorn

    class Quiet(uvicorn.Server):
        """Signals are the caller's."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    with contextlib.closing(_listening(host, port)) as listener:
        # A completion takes as long as it takes; who asked for it may hang up.
        async with httpx.AsyncClient(
            timeout=None,
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
            headers={"accept-encoding": "identity"},
        ) as client:
            config = uvicorn.Config(
                Gateway(key, root_url, prefixes, client),
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
            )
            server = Quiet(config)
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            try:
                name = f"[{host}]" if ":" in host else host
                yield f"http://{name}:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serving


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServingInputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); name an address of this "
            "machine with --host, and another --port (0: a free one)"
        ) from error


def _is_below(path: str, prefix: str) -> bool:
    # A path with dots could leave what its beginning promises.
    return (path == prefix or path.startswith(f"{prefix}/")) and ".." not in path.split("/")


async def _body(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, status: int, message: str) -> None:
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def split_url(url: str) -> tuple[str, str]:
    """Root and path of an endpoint's URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path
