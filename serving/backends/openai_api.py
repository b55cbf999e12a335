"""An OpenAI-compatible endpoint that somebody else runs.

`deploy` checks that it answers, `remove` leaves it alone.

The completions route has one seed a request, so every prompt is a request of its own. How likely a
text is as what comes next, the route tells in one of two ways: it echoes a prompt with the
log-probabilities of its tokens (exact for texts of any length; vLLM and others), or it lists the
most likely first tokens (fits texts of one token each).
"""

import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import httpx
from pydantic import Field

from serving.backends.base import Backend
from serving.client import (
    BatchingClient,
    CompletionClient,
    Probabilities,
    RequestPolicy,
    Scores,
    Text,
)
from serving.errors import CompletionFailed, ServingInputError, TransientFailure
from serving.messages import Completion, Sampling
from serving.models import Endpoint, Placement, ServedModel
from serving.scoring import continuations

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
CHECK_TIMEOUT_S = 10.0


class OpenaiApi(Backend, frozen=True):
    """Models behind a URL; a model's `path` is its id there."""

    kind: Literal["openai_api"] = "openai_api"
    base_url: str
    """URL that the routes hang on, such as `http://127.0.0.1:8000/v1`."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; where it is not set, no key is sent."""
    top_logprobs: int = Field(default=0, ge=0)
    """Most likely first tokens to ask for when choices are scored: for servers that do not echo a
    prompt's log-probabilities, and choices of one token each; 0 asks for the echo."""

    def deploy_all(
        self, models: Sequence[ServedModel], placement: Placement
    ) -> dict[str, Endpoint]:
        """Check that the server answers; placement is its own affair; see `Backend.deploy_all`."""
        url = self.base_url.rstrip("/")
        try:
            response = httpx.get(f"{url}/models", headers=self._headers(), timeout=CHECK_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise ServingInputError(
                f"no answer from {url}/models ({error or type(error).__name__}); "
                "is base_url right and the server up?"
            ) from error
        if response.status_code in (401, 403):
            raise ServingInputError(
                f"{url} refuses the key ({response.status_code}); set {self.api_key_variable}"
            )
        known = self._known(response)
        for model in models:
            if known and model.path not in known:
                raise ServingInputError(
                    f"{url} serves no model {model.path!r}; available: {', '.join(sorted(known))}"
                )
        return {
            model.name: Endpoint(model=model.path, digest=model.digest, base_url=url, app="")
            for model in models
        }

    def client(self, endpoint: Endpoint, policy: RequestPolicy | None = None) -> CompletionClient:
        """A client over HTTP; see `Backend.client`."""
        return BatchingClient(HttpTransport(endpoint, self._headers(), self.top_logprobs), policy)

    def remove(self, endpoint: Endpoint) -> None:
        """Nothing: the server is not ours."""

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.api_key_variable)
        return {"Authorization": f"Bearer {key}"} if key else {}

    @staticmethod
    def _known(response: httpx.Response) -> set[str]:
        """Ids that the server lists; none where it has no such route."""
        if not response.is_success:
            return set()
        return {entry["id"] for entry in response.json().get("data", [])}


class HttpTransport:
    """Sends one prompt a request to `/completions`."""

    seeds_per_request = False

    def __init__(self, endpoint: Endpoint, headers: dict[str, str], top_logprobs: int = 0) -> None:
        self._endpoint = endpoint
        self._top_logprobs = top_logprobs
        # The policy's timeout bounds a whole attempt, and its slots bound the connections.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits)

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        """Complete one prompt; see `Transport.send`."""
        ((prompt, seed),) = zip(prompts, seeds, strict=True)
        reply = await self._post(self._body(prompt, sampling, seed), timeout_s)
        with self._expecting("a completion", reply):
            choice = reply["choices"][0]
            return [
                Completion(
                    text=choice["text"],
                    num_tokens=reply["usage"]["completion_tokens"],
                    finish_reason=choice["finish_reason"],
                )
            ]

    async def score(
        self, prompts: Sequence[str], choices: Sequence[str], timeout_s: float
    ) -> list[Scores]:
        """Score the choices after one prompt; see `Transport.score`."""
        (prompt,) = prompts
        if self._top_logprobs:
            return [await self._score_first_tokens(prompt, choices, timeout_s)]
        return [await self._score_echo(prompt, choices, timeout_s)]

    async def classify(self, texts: Sequence[Text], timeout_s: float) -> list[Probabilities]:
        """Class probabilities from the `classify` route of `w2s serve`; see `Transport.classify`.

        It hangs beside `/v1`.
        """
        url = f"{self._endpoint.base_url.removesuffix('/v1')}/classify"
        body = {"model": self._endpoint.model, "input": list(texts)}
        reply = await self._post(body, timeout_s, url)
        with self._expecting("class probabilities", reply):
            data = sorted(reply["data"], key=lambda item: item["index"])
            return [tuple(map(float, item["probs"])) for item in data]

    async def stream(
        self, prompt: str, sampling: Sampling, seed: int, timeout_s: float
    ) -> AsyncIterator[str]:
        """Complete one prompt, piece by piece; see `Transport.stream`."""
        body = {**self._body(prompt, sampling, seed), "stream": True}
        async with self._http.stream("POST", self._url(), json=body, timeout=timeout_s) as response:
            if not response.is_success:
                self._check(
                    response.status_code, (await response.aread()).decode(), response.headers
                )
            async for line in response.aiter_lines():
                if not line.startswith("data:") or line.endswith("[DONE]"):
                    continue
                for choice in json.loads(line.removeprefix("data:"))["choices"]:
                    yield choice["text"]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _score_echo(self, prompt: str, choices: Sequence[str], timeout_s: float) -> Scores:
        """From the log-probabilities of the tokens of the prompt, alone and with each choice."""
        texts = [prompt, *(prompt + choice for choice in choices)]
        body = {
            "model": self._endpoint.model,
            "prompt": texts,
            "max_tokens": 0,
            "temperature": 0.0,
            "echo": True,
            "logprobs": 1,
        }
        try:
            reply = await self._post(body, timeout_s)
            with self._expecting("the log-probabilities of a prompt", reply):
                echoes = sorted(reply["choices"], key=lambda choice: choice["index"])
                tokens = [echo["logprobs"]["tokens"] for echo in echoes]
                logprobs = [echo["logprobs"]["token_logprobs"] for echo in echoes]
                if [echo["text"] for echo in echoes] != texts:
                    raise ValueError("the texts are not those of the request")
        except TransientFailure:
            raise
        except CompletionFailed as error:
            raise CompletionFailed(
                f"{error}; to score choices the server must echo a prompt with log-probabilities, "
                "or set top_logprobs if it lists the most likely first tokens"
            ) from error
        try:
            start = len(continuations(tokens[0], tokens[1:], choices).context)
        except ServingInputError as error:
            raise CompletionFailed(f"{self._url()}: {error}") from error
        return tuple(float(sum(values[start:])) for values in logprobs[1:])

    async def _score_first_tokens(
        self, prompt: str, choices: Sequence[str], timeout_s: float
    ) -> Scores:
        """From the most likely first tokens of a completion."""
        body = {
            "model": self._endpoint.model,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": self._top_logprobs,
        }
        reply = await self._post(body, timeout_s)
        with self._expecting("the log-probabilities of first tokens", reply):
            listed: dict[str, float] = reply["choices"][0]["logprobs"]["top_logprobs"][0]
            shown = ", ".join(map(repr, listed))
        for choice in choices:
            if choice not in listed:
                raise CompletionFailed(
                    f"{self._url()}: choice {choice!r} is not among the most likely first tokens "
                    f"({shown}); raise top_logprobs, give choices of one token, or use a server "
                    "that echoes a prompt with log-probabilities (top_logprobs = 0)"
                )
        return tuple(float(listed[choice]) for choice in choices)

    async def _post(self, body: dict[str, Any], timeout_s: float, url: str = "") -> Any:
        """The reply to one request, as JSON; to the completions route unless told otherwise."""
        try:
            response = await self._http.post(url or self._url(), json=body, timeout=timeout_s)
        except httpx.TransportError as error:
            raise TransientFailure(f"{self._url()}: {error or type(error).__name__}") from error
        self._check(response.status_code, response.text, response.headers)
        with self._expecting("JSON", response.text):
            return response.json()

    @contextmanager
    def _expecting(self, what: str, reply: Any) -> Iterator[None]:
        """Say what a reply lacks in place of how reading it failed."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CompletionFailed(
                f"{self._url()} answered without {what}: {str(reply)[:200]!r}"
            ) from error

    def _url(self) -> str:
        return f"{self._endpoint.base_url}/completions"

    def _body(self, prompt: str, sampling: Sampling, seed: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "prompt": prompt,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        # Known to vLLM and others, but not to every server: sent only when asked for.
        if sampling.min_tokens:
            body["min_tokens"] = sampling.min_tokens
        return body

    def _check(self, status: int, text: str, headers: httpx.Headers) -> None:
        if status < 400:
            return
        message = f"{self._url()} answered {status}: {text[:500]}"
        if status in RETRIED_STATUS:
            try:
                wait_s = float(headers.get("retry-after", ""))
            except ValueError:
                wait_s = None
            raise TransientFailure(message, wait_s)
        raise CompletionFailed(message)
