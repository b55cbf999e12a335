"""The replica of a served model: Ray Serve's `LLMServer` with a seed for every prompt.

The OpenAI routes allow one seed a request, so a list of prompts would share it. `SeededLLMServer`
adds three methods for callers inside the cluster: `complete_batch` takes a list of prompts and a
list of seeds, `score_batch` says how likely each of some texts is as what comes next, `stream_one`
yields text. Its HTTP routes are vLLM's own, served by the replica itself: no ingress process in
between, which is one start-up and one hop less.

Imported by the process that deploys and by replicas only: it loads Ray Serve, vLLM and torch (10 s
of one core).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm.deployment import LLMServer
from vllm import TokensPrompt
from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS, RequestOutputKind, SamplingParams
from vllm.utils import random_uuid

from serving.client import Scores
from serving.errors import ServingInputError
from serving.messages import Completion, Sampling
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
    )


@serve.ingress()
class SeededLLMServer(LLMServer):
    """One replica: an engine, vLLM's HTTP routes, and seeded completions for handles."""

    _default_engine_cls = OneProcessEngine

    async def complete_batch(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Complete every prompt with its own seed.

        Raises:
            ValueError: a prompt leaves no room for a completion.
        """
        return list(
            await asyncio.gather(
                *(
                    self._complete(prompt, sampling, seed)
                    for prompt, seed in zip(prompts, seeds, strict=True)
                )
            )
        )

    async def score_batch(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Log-probability of each choice after every prompt, in nats.

        Choices of one token each cost one forward pass of the prompt. Longer ones cost one more for
        every token that is not the last of its choice, whose prompt the prefix cache has read.

        Raises:
            ServingInputError: choices that cannot be told apart, or tokens the model does not have.
            ValueError: a prompt leaves no room for a choice.
        """
        cut = self._continuations(prompts, choices)
        return list(await asyncio.gather(*(self._score(one) for one in cut)))

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

    async def _score(self, one: Continuations[int]) -> Scores:
        wanted = one.next_tokens()
        if (most := max(map(len, wanted.values()))) > MAX_LOGPROB_TOKEN_IDS:
            raise ServingInputError(
                f"{most} choices go on differently at one token; at most {MAX_LOGPROB_TOKEN_IDS} "
                "can be scored"
            )
        found = await asyncio.gather(
            *(
                self._logprobs([*one.context, *beginning], tokens)
                for beginning, tokens in wanted.items()
            )
        )
        return one.scores(dict(zip(wanted, found, strict=True)))

    async def _logprobs(self, context: list[int], tokens: list[int]) -> dict[int, float]:
        """Log-probability of each token as the next one."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=tokens,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        final = None
        prompt = TokensPrompt(prompt_token_ids=context)
        async for output in self._client().generate(prompt, params, random_uuid()):
            final = output
        assert final is not None, "the engine ended a request without output"
        (position,) = final.outputs[0].logprobs
        return {token: position[token].logprob for token in tokens}

    async def stream_one(
        self, prompt: str, sampling: Sampling, seed: int
    ) -> AsyncGenerator[str, None]:
        """Complete one prompt, piece by piece."""
        params = _params(sampling, seed, RequestOutputKind.DELTA)
        async for output in self._client().generate(prompt, params, random_uuid()):
            if output.outputs[0].text:
                yield output.outputs[0].text

    async def _complete(self, prompt: str, sampling: Sampling, seed: int) -> Completion:
        params = _params(sampling, seed, RequestOutputKind.FINAL_ONLY)
        final = None
        async for output in self._client().generate(prompt, params, random_uuid()):
            final = output
        assert final is not None, "the engine ended a request without output"
        result = final.outputs[0]
        return Completion(
            result.text,
            len(result.token_ids),
            str(result.finish_reason),
            len(final.prompt_token_ids or ()),
            final.num_cached_tokens or 0,
        )

    def _client(self) -> Any:
        assert self.engine is not None, "the engine has not started"
        return self.engine._engine_client  # pyright: ignore[reportAttributeAccessIssue]

    async def _start_engine(self) -> None:
        """Start the engine without the usage report, whose actor would outlive the app."""
        assert self.engine is not None
        await self.engine.start()

    async def __del__(self) -> None:
        """Stop the engine's process with the replica."""
        client = getattr(self.engine, "_engine_client", None)
        if client is not None:
            client.shutdown()
