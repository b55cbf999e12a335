"""Replicas of models on vLLM: Ray Serve's `LLMServer`, asked through handles or over HTTP.

`EngineServer` is what they share: an engine, and low-rank adapters of its model that requests name.
`SeededLLMServer` writes, with a seed for every prompt: the OpenAI routes allow one seed a request,
so a list of prompts would share it. `PooledClassifier` classifies: the engine gives the hidden
state of the token that is read, and heads are applied here, one per adapter. HTTP routes are served
by the replica itself: no ingress process in between, which is one start-up and one hop less.

Imported by the process that deploys and by replicas only: it loads Ray Serve, vLLM and torch (10 s
of one core).
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm.deployment import LLMServer
from transformers import AutoTokenizer
from vllm import PoolingParams, TokensPrompt
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.lora.request import LoRARequest
from vllm.sampling_params import (
    MAX_LOGPROB_TOKEN_IDS,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from vllm.utils import random_uuid
from vllm.v1.engine.exceptions import EngineDeadError

from serving.classify import add_classify_route, flat_texts, split
from serving.client import Probabilities, Scores, Text
from serving.engine_process import bind_engines
from serving.errors import ServingInputError
from serving.heads import HEAD_FILE, Head, token_ids
from serving.messages import Completion, Sampling
from serving.models import Adapter, ServedModel, check_adapter_files
from serving.replica_ports import listen_on_own_address
from serving.scoring import Continuations, continuations

log = logging.getLogger(__name__)


class NoDownload(CallbackBase):
    """Skips Ray's download task on the replica's node.

    It is for mirrors in buckets only, and costs a process start.
    """

    async def on_before_node_init(self) -> None:
        """Called by Ray before that task."""
        self.ctx.run_init_node = False


class OneProcessEngine(VLLMEngine):
    """On a CPU, runs the model in the engine's process instead of a child of it.

    vLLM starts that child to set OpenMP's environment, which the replica's environment has set
    already; each process costs a ten-second import. On GPUs nothing changes.
    """

    def _start_async_llm_engine(
        self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any
    ) -> Any:
        parallel = vllm_engine_config.parallel_config
        if vllm_engine_config.device_config.device_type == "cpu" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(
            vllm_engine_args, vllm_engine_config, placement_group
        )


def _params(sampling: Sampling, seed: int, kind: RequestOutputKind) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        stop=list(sampling.stop),
        seed=seed,
        output_kind=kind,
        structured_outputs=(
            StructuredOutputsParams(json=sampling.json_schema) if sampling.json_schema else None
        ),
    )


def _end() -> NoReturn:
    log.exception("the engine died; the replica ends")
    os._exit(1)


class EngineServer(LLMServer):
    """One replica: an engine, its HTTP routes, and the adapters of its model."""

    _default_engine_cls = OneProcessEngine

    async def __init__(self, llm_config: Any, model: ServedModel) -> None:
        """Start the engine.

        Args:
            llm_config: what Ray starts it with.
            model: what is served.
        """
        listen_on_own_address()
        self._model = model
        await super().__init__(llm_config)

    async def _start_engine(self) -> None:
        """Start the engine without the usage report, whose actor would outlive the app."""
        assert self.engine is not None
        bind_engines()
        await self.engine.start()
        for adapter in self._model.adapters:
            await self._through(adapter)

    async def _through(self, adapter: Adapter | None) -> LoRARequest | None:
        """What sends a request through an adapter, which is loaded if it is not there yet."""
        if adapter is None:
            return None
        assert self.engine is not None
        models = self.engine._oai_models  # pyright: ignore[reportAttributeAccessIssue]
        if adapter.name not in models.lora_requests:
            if not self._model.adapters:
                raise ServingInputError(f"model {self._model.name!r} is served without adapters")
            check_adapter_files(adapter, self._model.task)
            answer = await models.load_lora_adapter(
                LoadLoRAAdapterRequest(lora_name=adapter.name, lora_path=adapter.path)
            )
            # Two requests may bring the same adapter at the same time.
            if adapter.name not in models.lora_requests:
                reason = getattr(getattr(answer, "error", answer), "message", answer)
                raise ServingInputError(f"adapter {adapter.name!r} does not load: {reason}")
        return models.lora_requests[adapter.name]

    def _client(self) -> Any:
        assert self.engine is not None, "the engine has not started"
        return self.engine._engine_client  # pyright: ignore[reportAttributeAccessIssue]

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        try:
            await super().check_health()
        except EngineDeadError:
            _end()

    async def _while_alive(self, outputs: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The outputs of a request.

        A replica whose engine has died ends here, so that Serve starts another at once, and not
        after three health checks.
        """
        try:
            async for output in outputs:
                yield output
        except EngineDeadError:
            _end()

    async def _last(self, outputs: AsyncIterator[Any]) -> Any:
        """The last output of a request."""
        final = None
        async for output in self._while_alive(outputs):
            final = output
        assert final is not None, "the engine ended a request without output"
        return final

    async def __del__(self) -> None:
        """Stop the engine's process with the replica."""
        client = getattr(self.engine, "_engine_client", None)
        if client is not None:
            client.shutdown()


@serve.ingress()
class SeededLLMServer(EngineServer):
    """One replica that writes: vLLM's OpenAI routes, and seeded completions for handles."""

    async def complete_batch(
        self,
        adapter: Adapter | None,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Completion]:
        """Complete every prompt with its own seed, through an adapter where one is named.

        Raises:
            ServingInputError: the adapter does not load.
            ValueError: a prompt leaves no room for a completion.
        """
        lora = await self._through(adapter)
        return list(
            await asyncio.gather(
                *(
                    self._complete(prompt, sampling, seed, lora)
                    for prompt, seed in zip(prompts, seeds, strict=True)
                )
            )
        )

    async def score_batch(
        self, adapter: Adapter | None, prompts: Sequence[str], choices: Sequence[str]
    ) -> list[Scores]:
        """Log-probability of each choice after every prompt, in nats.

        Choices of one token each cost one forward pass of the prompt. Longer ones cost one more for
        every token that is not the last of its choice, whose prompt the prefix cache has read.

        Raises:
            ServingInputError: choices that cannot be told apart, tokens the model does not have, or
            an adapter that does not load.
            ValueError: a prompt leaves no room for a choice.
        """
        lora = await self._through(adapter)
        cut = self._continuations(prompts, choices)
        return list(await asyncio.gather(*(self._score(one, lora) for one in cut)))

    def _continuations(
        self, prompts: Sequence[str], choices: Sequence[str]
    ) -> list[Continuations[int]]:
        tokenizer = self._client().get_tokenizer()
        texts = [prompt + choice for prompt in prompts for choice in ("", *choices)]
        ids = tokenizer(texts)["input_ids"]
        size = len(choices) + 1
        found = []
        for start in range(0, len(texts), size):
            prompt_ids, *whole_ids = ids[start : start + size]
            one = continuations(prompt_ids, whole_ids, choices)
            for choice, tail in zip(choices, one.tails, strict=True):
                if tokenizer.unk_token_id in tail:
                    raise ServingInputError(
                        f"choice {choice!r} has a word that the model's tokenizer does not know; "
                        "give texts in its vocabulary"
                    )
            found.append(one)
        return found

    async def _score(self, one: Continuations[int], lora: LoRARequest | None) -> Scores:
        wanted = one.next_tokens()
        if (most := max(map(len, wanted.values()))) > MAX_LOGPROB_TOKEN_IDS:
            raise ServingInputError(
                f"{most} choices go on differently at one token; at most {MAX_LOGPROB_TOKEN_IDS} "
                "can be scored"
            )
        found = await asyncio.gather(
            *(
                self._logprobs([*one.context, *beginning], tokens, lora)
                for beginning, tokens in wanted.items()
            )
        )
        return one.scores(dict(zip(wanted, found, strict=True)))

    async def _logprobs(
        self, context: list[int], tokens: list[int], lora: LoRARequest | None
    ) -> dict[int, float]:
        """Log-probability of each token as the next one."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=tokens,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=context)
        outputs = self._client().generate(prompt, params, random_uuid(), lora_request=lora)
        final = await self._last(outputs)
        (position,) = final.outputs[0].logprobs
        return {token: position[token].logprob for token in tokens}

    async def stream_one(
        self, adapter: Adapter | None, prompt: str, sampling: Sampling, seed: int
    ) -> AsyncGenerator[str, None]:
        """Complete one prompt, piece by piece."""
        params = _params(sampling, seed, RequestOutputKind.DELTA)
        lora = await self._through(adapter)
        outputs = self._client().generate(prompt, params, random_uuid(), lora_request=lora)
        async for output in self._while_alive(outputs):
            if output.outputs[0].text:
                yield output.outputs[0].text

    async def _complete(
        self, prompt: str, sampling: Sampling, seed: int, lora: LoRARequest | None
    ) -> Completion:
        params = _params(sampling, seed, RequestOutputKind.FINAL_ONLY)
        outputs = self._client().generate(prompt, params, random_uuid(), lora_request=lora)
        final = await self._last(outputs)
        result = final.outputs[0]
        return Completion(
            result.text,
            len(result.token_ids),
            str(result.finish_reason),
            len(final.prompt_token_ids or ()),
            final.num_cached_tokens or 0,
        )


@serve.ingress()
class PooledClassifier(EngineServer):
    """One replica that classifies; the engine has no head, each adapter brings its own."""

    async def __init__(self, llm_config: Any, model: ServedModel) -> None:
        """Start the engine and read the tokenizer and the heads; see `EngineServer`."""
        self._tokenizer = AutoTokenizer.from_pretrained(
            model.path,
            revision=model.revision or "main",
            trust_remote_code=model.trust_remote_code,
        )
        self._heads: dict[str, Head] = {}
        await super().__init__(llm_config, model)

    async def classify_batch(
        self, adapter: Adapter | None, texts: Sequence[Text]
    ) -> list[Probabilities]:
        """Class probabilities of every text, through an adapter where one is named.

        Raises:
            ServingInputError: texts that do not fit the head, or an adapter that does not load.
        """
        lora = await self._through(adapter)
        head = self._head(adapter)
        source = adapter or self._model
        ids = token_ids(self._tokenizer, flat_texts(texts, head), source.max_input)
        hidden = await asyncio.gather(*(self._hidden(one, lora) for one in ids))
        return split(head.probabilities(np.stack(hidden)))

    async def __serve_build_asgi_app__(self) -> Any:
        """The engine's routes, with `/classify` in front of them."""
        app = await super().__serve_build_asgi_app__()
        adapters = {adapter.name: adapter for adapter in self._model.adapters}
        known = dict.fromkeys([self._model.name]) | adapters
        add_classify_route(app, known, self.classify_batch)
        return app

    def _head(self, adapter: Adapter | None) -> Head:
        name, folder = ("", self._model.path) if adapter is None else (adapter.name, adapter.path)
        if name not in self._heads:
            if adapter is None and not (Path(folder) / HEAD_FILE).exists():
                raise ServingInputError(
                    f"model {self._model.name!r} has no head; its classifiers are "
                    f"{', '.join(adapter.name for adapter in self._model.adapters)}"
                )
            self._heads[name] = Head.read(folder)
        return self._heads[name]

    async def _hidden(self, ids: list[int], lora: LoRARequest | None) -> NDArray[np.float32]:
        """Last hidden state of the token that is read, [D]."""
        params = PoolingParams(task="embed", use_activation=False)
        prompt = TokensPrompt(prompt_token_ids=ids)
        outputs = self._client().encode(prompt, params, random_uuid(), lora_request=lora)
        final = await self._last(outputs)
        return final.outputs.data.float().numpy()
