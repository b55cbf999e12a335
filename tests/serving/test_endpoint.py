"""Our own endpoint as others see it: the `openai` package in another process, and our client.

The model is a random Llama that reads bytes, so that it can spell any JSON, with a chat template.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters, ascii_lowercase
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from serving.backends.openai_api import OpenaiApi
from serving.backends.vllm import Vllm
from serving.budget import Limits, Usage
from serving.client import CompletionClient
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.sequential import Sequential
from serving.debate.run import run_debates
from serving.debate.types import Question, Speaker, Transcript
from serving.errors import BudgetSpent
from serving.gateway import gateway, split_url
from serving.messages import Sampling
from serving.models import Endpoint, Placement, ServedModel

pytestmark = [pytest.mark.ray, pytest.mark.vllm]

SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["correct", "incorrect"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SHORT = DebatePrompts(max_tokens=(6,), exact_length=True, stop=())


def save_byte_llama(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: index for index, word in enumerate(["<pad>", "<eos>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )
    whole.chat_template = TEMPLATE
    whole.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def endpoint(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("bytes")
    save_byte_llama(folder)
    model = ServedModel(name="bytes", path=str(folder), digest="0123")
    with Vllm().serve([model], Placement(metrics=True)) as endpoints:
        yield endpoints["bytes"]


OUTSIDER = """
import json, sys
import httpx
from openai import OpenAI

url, schema = sys.argv[1], json.loads(sys.argv[2])
found = {}
with OpenAI(base_url=url, api_key="none") as client:
    found["models"] = [model.id for model in client.models.list()]
    on = {"ignore_eos": True}
    ask = dict(model="bytes", prompt="a question", max_tokens=8, temperature=1.0, extra_body=on)
    texts = [client.completions.create(**ask, seed=seed).choices[0].text for seed in (3, 3, 4)]
    found["texts"] = texts
    told = client.completions.create(**ask, seed=3, logprobs=2).choices[0].logprobs
    found["logprobs"] = told.token_logprobs
    messages = [{"role": "user", "content": "a question"}]
    ask = dict(model="bytes", messages=messages, temperature=1.0, seed=3)
    chat = client.chat.completions.create(
        **ask, max_tokens=8, logprobs=True, top_logprobs=4, extra_body=on
    )
    found["chat"] = chat.choices[0].message.content
    found["chat_prompt_tokens"] = chat.usage.prompt_tokens
    found["chat_logprobs"] = [len(one.top_logprobs) for one in chat.choices[0].logprobs.content]
    events = client.chat.completions.create(**ask, max_tokens=8, stream=True, extra_body=on)
    found["streamed"] = "".join(event.choices[0].delta.content or "" for event in events)
    form = {"type": "json_schema", "json_schema": {"name": "v", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(**ask, max_tokens=600, response_format=form)
    found["verdict"] = json.loads(answer.choices[0].message.content)
page = httpx.get(url.removesuffix("/v1") + "/metrics").text
found["generated"] = sum(
    float(line.split()[-1]) for line in page.splitlines()
    if line.startswith("vllm:generation_tokens_total")
)
print(json.dumps(found))
"""


def test_the_openai_package_in_another_process_gets_all_that_it_knows(endpoint: Endpoint) -> None:
    process = subprocess.run(
        [sys.executable, "-c", OUTSIDER, endpoint.base_url, json.dumps(SCHEMA)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, Any] = json.loads(process.stdout)
    assert found["models"] == ["bytes"]
    assert found["texts"][0] == found["texts"][1] != found["texts"][2]
    assert len(found["logprobs"]) == 8
    assert all(value <= 0 for value in found["logprobs"])
    # The template puts `user: `, a line break and `assistant: ` around the question.
    assert found["chat_prompt_tokens"] == len("user: a question\nassistant: ")
    assert found["chat_logprobs"] == [4] * 8
    assert found["streamed"] == found["chat"]
    assert found["verdict"]["verdict"] in ("correct", "incorrect")
    assert found["generated"] > 8 * 6


def remote(endpoint: Endpoint, **fields: Any) -> tuple[Endpoint, CompletionClient]:
    """Our client over HTTP, as for a server that somebody else runs."""
    backend = OpenaiApi(base_url=endpoint.base_url, **fields)
    found = backend.deploy(
        ServedModel(name="speaker", path=endpoint.model, digest="4567"), Placement()
    )
    return found, backend.client(found)


def debates(endpoint: Endpoint, client: CompletionClient) -> list[list[str]]:
    speaker = Speaker(endpoint.model, endpoint.digest, client)
    found: list[Transcript] = []

    async def run() -> None:
        await run_debates(
            Sequential(),
            [Question(f"q{i}", f"Is {i} even?") for i in range(6)],
            {"A": speaker, "B": speaker},
            seed=4,
            prompts=SHORT,
            on_transcript=found.append,
        )
        await client.aclose()

    asyncio.run(run())
    found.sort(key=lambda transcript: transcript.question_id)
    return [[turn.text for turn in transcript.turns] for transcript in found]


def test_a_debate_over_http_is_the_debate_over_the_handle(endpoint: Endpoint) -> None:
    by_http = debates(*remote(endpoint))
    assert by_http == debates(endpoint, Vllm().client(endpoint))
    assert len(by_http) == 6
    assert len({text for turns in by_http for text in turns}) > 6


@pytest.mark.parametrize("chat", [False, True])
def test_answers_obey_a_schema_by_every_way(endpoint: Endpoint, chat: bool) -> None:
    # A random model likes the white space that JSON allows anywhere.
    sampling = Sampling(max_tokens=600, json_schema=json.dumps(SCHEMA))

    async def run() -> list[str]:
        clients = [remote(endpoint, chat=chat)[1], Vllm().client(endpoint)]
        texts = []
        for client in clients:
            answers = await client.complete(["Q: 1?", "Q: 2?"], sampling, [1, 2])
            texts += [answer.text for answer in answers]
            await client.aclose()
        return texts

    for text in asyncio.run(run()):
        assert json.loads(text)["verdict"] in ("correct", "incorrect")


def test_scores_of_a_chat_are_those_of_its_template(endpoint: Endpoint) -> None:
    async def run() -> None:
        prompt = "system: Judge.\nuser: Is it?\nassistant: "
        (scores,) = await Vllm().client(endpoint).score([prompt], [*ascii_letters])
        by_handle = dict(zip(ascii_letters, scores, strict=True))
        likely = sorted(ascii_lowercase, key=lambda letter: -by_handle[letter])[:2]
        _, chat = remote(endpoint, chat=True, system="Judge.")
        # Neither the space before a word nor its case counts in a chat.
        (by_chat,) = await chat.score(["Is it?"], [f" {letter}" for letter in likely])
        await chat.aclose()
        for letter, score in zip(likely, by_chat, strict=True):
            both = np.logaddexp(by_handle[letter], by_handle[letter.upper()])
            assert by_handle[letter] - 0.01 <= score <= both + 0.01

    asyncio.run(run())


def test_a_budget_counts_what_the_server_says(endpoint: Endpoint, tmp_path: Path) -> None:
    async def run() -> None:
        _, client = remote(endpoint, limits=Limits(max_requests=2), folder=str(tmp_path))
        with pytest.raises(BudgetSpent, match="2 of 2 requests"):
            await client.complete(["one", "two", "three"], Sampling(max_tokens=4), [1, 2, 3])
        await client.aclose()

    asyncio.run(run())
    ledger = OpenaiApi(base_url=endpoint.base_url, folder=str(tmp_path)).ledger()
    spent = ledger.spent("bytes")
    assert spent.requests == 2
    assert spent == Usage(2, len("one") + len("two"), spent.output_tokens)
    assert 2 <= spent.output_tokens <= 8


def test_the_openai_package_comes_in_through_the_gateway_with_the_key_alone(
    endpoint: Endpoint,
) -> None:
    from openai import AsyncOpenAI, AuthenticationError

    key = "0123456789abcdef0123"
    root_url, path = split_url(endpoint.root_url)

    async def run() -> None:
        async with gateway("127.0.0.1", 0, key, root_url, [path]) as url:
            async with AsyncOpenAI(base_url=f"{url}{path}/v1", api_key=key) as client:
                assert [model.id async for model in client.models.list()] == ["bytes"]
                asked: Any = {"model": "bytes", "prompt": "a question", "max_tokens": 8, "seed": 3}
                whole = await client.completions.create(**asked)
                events = await client.completions.create(**asked, stream=True)
                pieces = [event.choices[0].text async for event in events]
                assert "".join(pieces) == whole.choices[0].text
            async with AsyncOpenAI(
                base_url=f"{url}{path}/v1", api_key=f"{key}x", max_retries=0
            ) as stranger:
                with pytest.raises(AuthenticationError):
                    await stranger.models.list()
            async with httpx.AsyncClient() as plain:
                assert (await plain.get(f"{url}{path}/metrics")).status_code == 401
                bearer = {"Authorization": f"Bearer {key}"}
                page = await plain.get(f"{url}{path}/metrics", headers=bearer)
                assert "vllm:" in page.text

    asyncio.run(run())


def test_replicas_engines_and_proxies_listen_on_loopback_alone(endpoint: Endpoint) -> None:
    found: dict[str, set[str]] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    title = " ".join(process.cmdline())[:60]
                    address = connection.laddr.ip.removeprefix("::ffff:")
                    found.setdefault(address, set()).add(title)
    titles = set.union(*found.values())
    assert any("ServeReplica" in title for title in titles)
    assert any("ProxyActor" in title for title in titles)
    assert found.keys() <= {"127.0.0.1", "::1"}, found
