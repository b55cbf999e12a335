"""Replicas on real engines: adapters, classifiers, metrics, and one that is killed."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from serving.backends.openai_api import OpenaiApi
from serving.backends.vllm import HandleTransport, Vllm
from serving.client import BatchingClient, CompletionClient
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.sequential import Sequential
from serving.debate.run import run_debates
from serving.debate.types import Question, Speaker, Transcript
from serving.errors import CompletionFailed
from serving.messages import Completion, Sampling
from serving.models import Adapter, Endpoint, Placement, ServedModel
from tests.serving.tiny import save_language_model, save_tokenizer, texts
from w2s.models.adapters import add_adapters, merge_adapters
from w2s.models.classifier import Classifier, Head, load_backbone, save_adapted, save_classifier
from w2s.training.batching import tokenize
from w2s.training.loop import predict

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

LONGEST = 40
"""Tokens of a classifier's input; some texts are longer and lose their beginning."""
TEXTS = texts(50)
CHOICES = [" w3", " w4 w5"]
TERSE = DebatePrompts(
    first="{question} {position}",
    reply="{question} {transcript} {position}",
    later="{question} {transcript} {position}",
    turn_template="{position} {text}",
    joiner=" ",
    correct_name="pro:",
    incorrect_name="con:",
    max_tokens=(7, 7, 3),
    exact_length=True,
    stop=(),
)


def adapted(base: Path, seed: int) -> Classifier:
    """A classifier whose adapters and head do something."""
    backbone = load_backbone(base)
    add_adapters(backbone, rank=4, alpha=8.0, target_modules=(), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.2, generator=generator)
    weight_CD = torch.empty(3, 64).normal_(0.0, 0.5, generator=generator)
    return Classifier(backbone, Head(weight_CD))


def probabilities(classifier: Classifier, folder: Path) -> NDArray[np.float64]:
    """What the training stack predicts."""
    rows = tokenize(AutoTokenizer.from_pretrained(folder), TEXTS, LONGEST)
    return np.exp(predict(classifier, rows).astype(np.float64))


@dataclass
class Served:
    """Models that are up."""

    folder: Path
    endpoints: dict[str, Endpoint]
    adapters: dict[str, Adapter]
    wanted: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Class probabilities of the training stack, by classifier."""
    merged: dict[str, Path] = field(default_factory=dict)
    """Language models with an adapter merged in, by adapter; `base` has none."""


@pytest.fixture(scope="module")
def served(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    base = folder / "base"
    save_language_model(base)
    adapters: dict[str, Adapter] = {}
    wanted: dict[str, NDArray[np.float64]] = {}
    merged = {"base": base}
    for seed, name in enumerate(("x", "y", "late")):
        classifier = adapted(base, seed)
        save_adapted(classifier, folder / name)
        adapters[name] = Adapter(name=name, path=str(folder / name), max_input=LONGEST)
        merge_adapters(classifier.backbone)
        wanted[name] = probabilities(classifier, base)
        whole = AutoModelForCausalLM.from_pretrained(base)
        whole.model.load_state_dict(classifier.backbone.state_dict())
        merged[name] = folder / f"merged-{name}"
        whole.save_pretrained(merged[name])

    torch.manual_seed(5)
    config = AutoConfig.for_model(
        "distilbert", vocab_size=206, dim=64, n_layers=2, n_heads=2, hidden_dim=128
    )
    AutoModel.from_config(config).save_pretrained(folder / "other")
    save_tokenizer(folder / "other")
    other = Classifier(load_backbone(folder / "other"), Head(torch.randn(2, 64)))
    save_classifier(other, folder / "other")
    wanted["other"] = probabilities(other, folder / "other")

    held = (adapters["x"], adapters["y"])
    models = [
        ServedModel(name="writer", path=str(base), dtype="float32", adapters=held, digest="d"),
        ServedModel(name="teachers", path=str(base), task="classify", adapters=held),
        ServedModel(
            name="other",
            path=str(folder / "other"),
            task="classify",
            read_token="first",
            max_input=LONGEST,
        ),
    ]
    with Vllm().serve(models, Placement(metrics=True, max_num_seqs=64)) as endpoints:
        yield Served(folder, endpoints, adapters, wanted, merged)


def ask(endpoint: Endpoint, what: Callable[[CompletionClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await what(Vllm().client(endpoint))

    return asyncio.run(run())


def log_probability(folder: Path, prompt: str, choice: str) -> float:
    """Of the choice after the prompt, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    start = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(prompt + choice)["input_ids"]])
    with torch.inference_mode():
        logprobs_TV = model(ids).logits[0].log_softmax(-1)
    return sum(float(logprobs_TV[t - 1, ids[0, t]]) for t in range(start, ids.shape[1]))


@pytest.mark.parametrize("name", ["base", "x", "y", "late"])
def test_a_request_through_an_adapter_answers_as_the_merged_model(served: Served, name: str):
    endpoint = served.endpoints["writer"]
    through = endpoint if name == "base" else endpoint.through(served.adapters[name])
    found = ask(through, lambda client: client.score(TEXTS[:6], CHOICES))
    wanted = [[log_probability(served.merged[name], p, c) for c in CHOICES] for p in TEXTS[:6]]
    assert np.asarray(found) == pytest.approx(np.asarray(wanted), abs=1e-3)


def test_adapters_and_base_answer_beside_each_other_in_one_batch(served: Served):
    writer = served.endpoints["writer"]
    endpoints = [writer, *(writer.through(served.adapters[name]) for name in ("x", "y"))]

    async def run() -> list[list[Completion]]:
        clients = [Vllm().client(endpoint) for endpoint in endpoints]
        sampling = Sampling(max_tokens=8, min_tokens=8, temperature=0.0)
        return await asyncio.gather(
            *(client.complete(TEXTS[:20], sampling, list(range(20))) for client in clients)
        )

    found = [[completion.text for completion in each] for each in asyncio.run(run())]
    assert found[0] != found[1] != found[2] != found[0]


def test_adapter_is_a_model_of_the_openai_route(served: Served):
    writer = served.endpoints["writer"]
    from openai import OpenAI

    with OpenAI(base_url=writer.base_url, api_key="none") as client:
        assert {model.id for model in client.models.list()} >= {"writer", "x", "y"}
        by_http = client.completions.create(
            model="x", prompt=TEXTS[0], max_tokens=8, temperature=0.0
        )
    sampling = Sampling(max_tokens=8, temperature=0.0)
    by_handle = ask(
        writer.through(served.adapters["x"]),
        lambda client: client.complete(TEXTS[:1], sampling, [1]),
    )
    assert by_http.choices[0].text == by_handle[0].text


@pytest.mark.parametrize("name", ["x", "y", "late", "other"])
def test_class_probabilities_are_those_of_the_training_stack(served: Served, name: str):
    endpoint = (
        served.endpoints["other"]
        if name == "other"
        else served.endpoints["teachers"].through(served.adapters[name])
    )
    found = np.asarray(ask(endpoint, lambda client: client.classify(TEXTS)))
    np.testing.assert_allclose(found, served.wanted[name], atol=1e-4)
    assert np.ptp(found[:, 0]) > 0.2


@pytest.mark.parametrize("name", ["x", "y", "other"])
def test_classify_route_answers_over_http(served: Served, name: str):
    endpoint = served.endpoints["other" if name == "other" else "teachers"]
    backend = OpenaiApi(base_url=endpoint.base_url)
    client = backend.client(Endpoint(name, "", endpoint.base_url, ""))

    async def run() -> list[tuple[float, ...]]:
        found = await client.classify(TEXTS[:12])
        await client.aclose()
        return found

    found = np.asarray(asyncio.run(run()))
    np.testing.assert_allclose(found, served.wanted[name][:12], atol=1e-4)


def test_classify_route_says_what_is_wrong(served: Served):
    url = f"{served.endpoints['teachers'].root_url}/classify"

    def message(body: dict[str, Any], status: int) -> str:
        response = httpx.post(url, json=body)
        assert response.status_code == status
        return response.json()["error"]["message"]

    assert "no model 'z' here; models: teachers, x, y" in message({"model": "z", "input": "a"}, 404)
    assert "'teachers' has no head" in message({"model": "teachers", "input": "a"}, 400)
    assert "reads single texts" in message({"model": "x", "input": [["a", "b"]]}, 400)
    assert "send {'model'" in message({"model": "x"}, 400)


def test_model_that_writes_refuses_to_classify(served: Served):
    with pytest.raises(CompletionFailed, match="classify_batch"):
        ask(served.endpoints["writer"], lambda client: client.classify(["a"]))


def test_engines_count_on_the_metrics_page(served: Served):
    ask(
        served.endpoints["writer"],
        lambda client: client.complete(["w1"], Sampling(max_tokens=2), [0]),
    )
    page = httpx.get(f"{served.endpoints['writer'].root_url}/metrics").text
    counts = [line for line in page.splitlines() if line.startswith("vllm:prompt_tokens_total")]
    assert counts
    assert float(counts[0].split()[-1]) > 0


def processes(title: str) -> list[int]:
    """Living processes below this one with a word in their title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if title in " ".join(process.cmdline()) and alive:
                found.append(process.pid)
    return found


class Listening(HandleTransport):
    """Remembers which prompts were sent."""

    sent: list[str]

    async def send(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int], timeout_s: float
    ) -> list[Completion]:
        self.sent.extend(prompts)
        return await super().send(prompts, sampling, seeds, timeout_s)


@pytest.mark.parametrize("victim", ["replica", "engine"])
def test_a_killed_process_loses_no_debate_and_nothing_is_asked_again(served: Served, victim: str):
    from ray import serve

    endpoint = served.endpoints["writer"]
    transport = Listening(serve.get_deployment_handle(endpoint.deployment, endpoint.app))
    transport.sent = []
    (replica,) = processes("ServeReplica:llm-writer:writer")
    engines = [
        child.pid
        for child in psutil.Process(replica).children(recursive=True)
        if "EngineCore" in " ".join(child.cmdline())
    ]
    questions = [Question(f"q{index}", f"Q: w{index} w{index + 1}") for index in range(64)]
    found: list[Transcript] = []
    killed_at: list[int] = []

    def on_transcript(transcript: Transcript) -> None:
        found.append(transcript)
        if len(found) == 32:
            os.kill(replica if victim == "replica" else engines[0], signal.SIGKILL)
            killed_at.append(len(transport.sent))

    async def run() -> None:
        speaker = Speaker(endpoint.model, endpoint.digest, BatchingClient(transport))
        await run_debates(
            Sequential(),
            questions,
            {"A": speaker, "B": speaker},
            seed=4,
            prompts=TERSE,
            on_transcript=on_transcript,
            debates_per_batch=16,
            max_batches_in_flight=1,
        )

    started = time.monotonic()
    asyncio.run(run())
    print(f"debates with the {victim} killed: {time.monotonic() - started:.1f} s")
    assert sorted(each.question_id for each in found) == sorted(each.id for each in questions)
    assert [[turn.num_tokens for turn in each.turns] for each in found] == [[7, 7, 3]] * 64
    done = [questions[int(each.question_id[1:])].text for each in found[:32]]
    after = transport.sent[killed_at[0] :]
    assert after
    assert not [prompt for prompt in after if any(prompt.startswith(f"{q} ") for q in done)]
    (restarted,) = processes("ServeReplica:llm-writer:writer")
    assert restarted != replica
    assert engines
    assert not [pid for pid in engines if psutil.pid_exists(pid)], "an engine outlived its replica"
