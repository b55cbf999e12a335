"""An OpenAI-compatible endpoint that somebody else runs.

`deploy` checks that it answers, `remove` leaves it alone.

The completions route has one seed a request, so every prompt is a request of its own.
"""

import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import httpx

from serving.backends.base import Backend
from serving.client import BatchingClient, CompletionClient, RequestPolicy
from serving.errors import CompletionFailed, ServingInputError, TransientFailure
from serving.messages import Completion, Sampling
from serving.models import Endpoint, Placement, ServedModel

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
CHECK_TIMEOUT_S = 10.0


class OpenaiApi(Backend, frozen=True):
    """Models behind a URL; a model's `path` is its id there."""

    kind: Literal["openai_api"] = "openai_api"
    base_url: str
    """URL that the routes hang on, such as `http://127.0.0.1:8000/v1`."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; where it is not set, no key is sent."""

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
        return BatchingClient(HttpTransport(endpoint, self._headers()), policy)

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

    def __init__(self, endpoint: Endpoint, headers: dict[str, str]) -> None:
        self._endpoint = endpoint
        # The policy's timeout bounds a whole attempt, and its slots bound the connections.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits)

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        """Complete one prompt; see `Transport.send`."""
        ((prompt, seed),) = zip(prompts, seeds, strict=True)
        body = self._body(prompt, sampling, seed)
        try:
            response = await self._http.post(self._url(), json=body, timeout=timeout_s)
        except httpx.TransportError as error:
            raise TransientFailure(f"{self._url()}: {error or type(error).__name__}") from error
        self._check(response.status_code, response.text, response.headers)
        try:
            reply = response.json()
            choice = reply["choices"][0]
            return [
                Completion(
                    text=choice["text"],
                    num_tokens=reply["usage"]["completion_tokens"],
                    finish_reason=choice["finish_reason"],
                )
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CompletionFailed(
                f"{self._url()} answered with no completion: {response.text[:200]!r}"
            ) from error

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
