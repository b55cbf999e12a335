"""An OpenAI-compatible endpoint that somebody else runs.

`deploy` checks that it answers, `remove` leaves it alone.

The routes have one seed a request, so every prompt is a request of its own: a text to go on from at
`/completions`, a user's message at `/chat/completions`. How likely a text is as what comes next, a
server tells in one of two ways: it echoes a prompt with the log-probabilities of its tokens (exact
for texts of any length; vLLM and others), or it lists the most likely first tokens (fits texts of
one token each; the only way of a chat).

What is asked has limits a minute and a budget (`serving.budget`), and where a folder is given,
every answer is kept and never asked for again (`serving.cache`).
"""

import json
import math
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import Field, SecretStr

from serving.backends.base import Backend
from serving.budget import Ledger, Limits, Meter, Usage
from serving.cache import AnswerCache, CachingClient
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
CHAT_TOP_LOGPROBS = 20
"""The most that OpenAI lists, and vLLM unless told otherwise."""
LEDGER_FILE = "spent.sqlite"
CACHE_FILE = "answers.sqlite"


class OpenaiApi(Backend, frozen=True):
    """Models behind a URL; a model's `path` is its id there."""

    kind: Literal["openai_api"] = "openai_api"
    base_url: str
    """URL that the routes hang on, such as `http://127.0.0.1:8000/v1`."""
    api_key_variable: str | None = None
    """Environment variable that holds the key; None: no key is sent."""
    api_key: SecretStr | None = None
    """The key itself, for a process with another environment; see `with_key`."""
    chat: bool = False
    """Whether a prompt goes as a user's message of a chat; else as a text to go on from."""
    system: str = ""
    """System message of every chat; empty: none."""
    top_logprobs: int = Field(default=0, ge=0)
    """Most likely first tokens to ask for when choices are scored: for servers that do not echo a
    prompt's log-probabilities, and choices of one token each; 0 asks for the echo, or in a chat,
    which has none, for 20."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the field that bounds an answer."""
    max_requests_in_flight: int | None = Field(default=None, ge=1)
    """Requests that wait for an answer at the same time; None: as the policy says."""
    limits: Limits = Limits()
    """What may be asked, by all clients of the account together where there is a folder."""
    account: str = ""
    """Name under which spending is booked; empty: the model's id."""
    folder: str | None = None
    """Folder of what was answered and spent; None: nothing is kept."""

    def deploy_all(
        self, models: Sequence[ServedModel], placement: Placement
    ) -> dict[str, Endpoint]:
        """Check that the server answers; placement is its own affair; see `Backend.deploy_all`."""
        url = self.base_url.rstrip("/")
        try:
            response = httpx.get(f"{url}/models", headers=self.headers(), timeout=CHECK_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise ServingInputError(
                f"no answer from {url}/models ({error or type(error).__name__}); "
                "is base_url right and the server up?"
            ) from error
        if response.status_code in (401, 403):
            raise ServingInputError(
                f"{url} refuses the key ({response.status_code}); "
                + (
                    f"set {self.api_key_variable} to one that it takes"
                    if self.api_key_variable
                    else "name the environment variable that holds one in api_key_variable"
                )
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
        policy = policy or RequestPolicy()
        if self.max_requests_in_flight is not None:
            bound = {"max_requests_in_flight": self.max_requests_in_flight}
            policy = policy.model_copy(update=bound)
        account = self.account or endpoint.model
        meter = Meter(self.limits, account, self.ledger())
        client = BatchingClient(HttpTransport(endpoint, self, meter), policy, meter)
        if self.folder is None:
            return client
        cache = AnswerCache(Path(self.folder) / CACHE_FILE)
        return CachingClient(client, cache, endpoint.digest)

    def ledger(self) -> Ledger:
        """What was spent, in the folder or in memory."""
        return Ledger(Path(self.folder) / LEDGER_FILE if self.folder else None)

    def with_key(self) -> "OpenaiApi":
        """A copy that brings its key along to other processes.

        Raises:
            ServingInputError: the environment variable is not set.
        """
        return self.model_copy(update={"api_key": self._key()})

    def remove(self, endpoint: Endpoint) -> None:
        """Nothing: the server is not ours."""

    def headers(self) -> dict[str, str]:
        """Of every request.

        Raises:
            ServingInputError: there must be a key, and there is none.
        """
        key = self._key()
        return {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}

    def _key(self) -> SecretStr | None:
        if self.api_key is not None or self.api_key_variable is None:
            return self.api_key
        if not (found := os.environ.get(self.api_key_variable)):
            raise ServingInputError(
                f"no key for {self.base_url}: the environment variable {self.api_key_variable} is "
                "not set; set it, or name another one in api_key_variable"
            )
        return SecretStr(found)

    @staticmethod
    def _known(response: httpx.Response) -> set[str]:
        """Ids that the server lists; none where it has no such route."""
        if not response.is_success:
            return set()
        return {entry["id"] for entry in response.json().get("data", [])}


class HttpTransport:
    """Sends one prompt a request to `/completions` or `/chat/completions`."""

    seeds_per_request = False

    def __init__(self, endpoint: Endpoint, api: OpenaiApi, meter: Meter) -> None:
        """Args: endpoint: URL and id of the model. api: how to ask. meter: gets what it cost."""
        self._endpoint = endpoint
        self._api = api
        self._meter = meter
        # The policy's timeout bounds a whole attempt, and its slots bound the connections.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(headers=api.headers(), timeout=None, limits=limits)

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        """Complete one prompt; see `Transport.send`."""
        ((prompt, seed),) = zip(prompts, seeds, strict=True)
        reply = await self._post(self._body(prompt, sampling, seed), timeout_s)
        with self._expecting("a completion", reply):
            choice = reply["choices"][0]
            text = choice["message"]["content"] if self._api.chat else choice["text"]
            usage = reply["usage"]
            details = usage.get("prompt_tokens_details") or {}
            return [
                Completion(
                    # A refusal, or an answer that was all thinking, has no content.
                    text=text or "",
                    num_tokens=usage["completion_tokens"],
                    finish_reason=choice["finish_reason"],
                    num_prompt_tokens=usage.get("prompt_tokens", 0),
                    num_cached_tokens=details.get("cached_tokens") or 0,
                )
            ]

    async def score(
        self, prompts: Sequence[str], choices: Sequence[str], timeout_s: float
    ) -> list[Scores]:
        """Score the choices after one prompt; see `Transport.score`."""
        (prompt,) = prompts
        if self._api.top_logprobs or self._api.chat:
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
        body = {
            **self._body(prompt, sampling, seed),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._http.stream(
                "POST", self._url(), json=body, timeout=timeout_s
            ) as response:
                if not response.is_success:
                    self._check(
                        response.status_code, (await response.aread()).decode(), response.headers
                    )
                async for line in response.aiter_lines():
                    if not line.startswith("data:") or line.endswith("[DONE]"):
                        continue
                    event = json.loads(line.removeprefix("data:"))
                    if event.get("usage"):
                        self._charge(event)
                    for choice in event["choices"]:
                        piece = choice["delta"].get("content") if self._api.chat else choice["text"]
                        if piece:
                            yield piece
        except httpx.TransportError as error:
            raise TransientFailure(f"{self._url()}: {error or type(error).__name__}") from error

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
        number = self._api.top_logprobs or CHAT_TOP_LOGPROBS
        body = {
            **self._asked(prompt),
            self._api.token_limit: 1,
            "temperature": 0.0,
            **({"logprobs": True, "top_logprobs": number} if self._api.chat else {}),
            **({} if self._api.chat else {"logprobs": number}),
        }
        reply = await self._post(body, timeout_s)
        with self._expecting("the log-probabilities of first tokens", reply):
            told = reply["choices"][0]["logprobs"]
            if self._api.chat:
                (position,) = told["content"]
                listed = [(item["token"], item["logprob"]) for item in position["top_logprobs"]]
            else:
                listed = list(told["top_logprobs"][0].items())
            scores = first_token_scores(listed, choices, loosely=self._api.chat)
        if scores is None:
            raise CompletionFailed(
                f"{self._url()}: none of {', '.join(map(repr, choices))} is among the most likely "
                f"first tokens ({', '.join(repr(token) for token, _ in listed)}); raise "
                "top_logprobs, give choices of one token that the model would begin with, or use a "
                "server that echoes a prompt with log-probabilities (top_logprobs = 0)"
            )
        return scores

    async def _post(self, body: dict[str, Any], timeout_s: float, url: str = "") -> Any:
        """The reply to one request, as JSON; to the completions route unless told otherwise."""
        try:
            response = await self._http.post(url or self._url(), json=body, timeout=timeout_s)
        except httpx.TransportError as error:
            raise TransientFailure(f"{self._url()}: {error or type(error).__name__}") from error
        self._check(response.status_code, response.text, response.headers)
        with self._expecting("JSON", response.text):
            reply = response.json()
            self._charge(reply)
        return reply

    def _charge(self, reply: dict[str, Any]) -> None:
        """Book what an answer says that it cost; one that says nothing cost a request."""
        usage = reply.get("usage") or {}
        self._meter.charge(
            Usage(1, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
        )

    @contextmanager
    def _expecting(self, what: str, reply: Any) -> Iterator[None]:
        """Say what a reply lacks in place of how reading it failed."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CompletionFailed(
                f"{self._url()} answered without {what}: {str(reply)[:200]!r}"
            ) from error

    def _url(self) -> str:
        return f"{self._endpoint.base_url}/{'chat/' if self._api.chat else ''}completions"

    def _asked(self, prompt: str) -> dict[str, Any]:
        """The model and the prompt, in the words of the route."""
        if not self._api.chat:
            return {"model": self._endpoint.model, "prompt": prompt}
        messages = [{"role": "user", "content": prompt}]
        if self._api.system:
            messages.insert(0, {"role": "system", "content": self._api.system})
        return {"model": self._endpoint.model, "messages": messages}

    def _body(self, prompt: str, sampling: Sampling, seed: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            **self._asked(prompt),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._api.token_limit: sampling.max_tokens,
            "seed": seed,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        # Known to vLLM and others, but not to every server: sent only when asked for.
        if sampling.min_tokens:
            body["min_tokens"] = sampling.min_tokens
        if sampling.json_schema is not None:
            schema = {"name": "answer", "schema": json.loads(sampling.json_schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
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


def first_token_scores(
    listed: Sequence[tuple[str, float]], choices: Sequence[str], *, loosely: bool
) -> Scores | None:
    """Log-probability of each choice, from a list of likely first tokens.

    A choice that is not listed is at most as likely as the last token that is: it gets that token's
    score, an upper bound.

    Args:
        listed: tokens and log-probabilities in nats.
        choices: what may come first.
        loosely: whether space around tokens and choices does not count, nor case where choices
            differ in more than case: a chat's answer begins with `Yes` where a text goes on with
            ` yes`. Tokens that then are the same count together.

    Returns:
        One score a choice, or None where no choice is listed.
    """
    folds = len({choice.strip().casefold() for choice in choices}) == len(choices)

    def name(text: str) -> str:
        if not loosely:
            return text
        return text.strip().casefold() if folds else text.strip()

    found: dict[str, float] = {}
    for token, logprob in listed:
        before = found.get(name(token), -math.inf)
        high, low = max(before, logprob), min(before, logprob)
        found[name(token)] = high + math.log1p(math.exp(low - high))
    if not any(name(choice) in found for choice in choices):
        return None
    least = min(logprob for _, logprob in listed)
    return tuple(float(found.get(name(choice), least)) for choice in choices)
