"""Debates through the sweep's path against the raw vLLM engine on the same prompts.

    python benchmarks/debate_throughput.py [--json] [--model 30m|almanac] [--rows 192]

The sweep's path is a `Debate` stage: batches of rows, three turns, a client over the handle of a
Ray Serve replica, transcripts written as they finish, the artifact committed to the store. The raw
path is vLLM's `LLM.generate` in this process, one call for each turn with all its prompts, which
were recorded on the sweep's path; every completion has the same number of tokens on both. Both
engines have the same settings and one thread, and take turns; each repeat debates rows that neither
has seen. `ratio_to_raw_engine` is the median over repeats of raw seconds by the sweep's seconds.

The weights are random: the time of a token does not depend on them. `30m` is a Llama of 30 million
parameters that writes 64 tokens a turn; `almanac` is the largest rung of the embedded default with
its closed-form turns of 7, 7 and 3 tokens, where almost all the time is overhead.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from rich.console import Console
from rich.table import Table

from serving.backends.vllm import Vllm, engine_kwargs
from serving.client import CompletionClient, OnCompletion
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.sequential import Sequential
from serving.messages import Completion, Sampling
from serving.models import Placement, ServedModel
from sweeps import cluster
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_serve_stage, run_stage
from w2s.corpora.almanac import AlmanacCorpus
from w2s.models.architecture import Architecture
from w2s.models.source import PretrainedModel, resolve
from w2s.spec import digest
from w2s.stages.data import Prompts
from w2s.stages.debate import Debate
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import Task
from w2s.types import SPLITS, Row, Split, TaskData

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
"""As a replica on the CPU has it; set before vLLM and torch are loaded."""
NUM_WORDS = 4000
WORDS_PER_QUESTION = 60
TURN_TOKENS = 64
SHAPES = {
    "30m": Architecture(
        hidden_size=512,
        num_layers=8,
        num_heads=8,
        head_dim=64,
        intermediate_size=1376,
        max_position_embeddings=1024,
    ),
    "almanac": Architecture(
        hidden_size=96, num_layers=2, num_heads=2, head_dim=32, intermediate_size=256
    ),
}


class Questions(Task):
    """Rows of random words."""

    kind: Literal["questions"] = "questions"
    num_rows: int
    """Rows of each split."""

    def load(self) -> TaskData:
        """Rows whose texts share nothing but their words."""
        draw = random.Random(0)
        return TaskData(
            {
                split: [
                    Row(
                        row_id=f"{split}-{index}",
                        group=f"{split}-{index}",
                        prompt=" ".join(
                            f"w{draw.randrange(NUM_WORDS)}" for _ in range(WORDS_PER_QUESTION)
                        ),
                        label=index % 2,
                    )
                    for index in range(self.num_rows)
                ]
                for split in SPLITS
            }
        )


def word_tokenizer() -> Any:
    """A tokenizer of the questions' words and of what the templates say."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    said = " ".join(DebatePrompts().model_dump_json().split())
    splitter = pre_tokenizers.Whitespace()
    words = ["<pad>", "<eos>", "<unk>", *(f"w{index}" for index in range(NUM_WORDS))]
    words += dict.fromkeys(word for word, _ in splitter.pre_tokenize_str(said))
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<eos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=SHAPES["30m"].max_position_embeddings,
    )


def random_model(which: str, folder: Path) -> PretrainedModel:
    """A model of random weights in a folder."""
    if which == "almanac":
        task = Almanac()
        corpus = AlmanacCorpus(rare_share=1.0, custom_share=1.0).bind(task, (task,))
        tokenizer = corpus.tokenizer()
    else:
        tokenizer = word_tokenizer()
    SHAPES[which].build(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return resolve(PretrainedModel(path=str(folder)))


class Recorder:
    """A client that remembers what was asked; all else it leaves to the client it stands for."""

    def __init__(self, client: CompletionClient) -> None:
        self._client = client
        self.requests: list[tuple[list[str], Sampling, list[int]]] = []
        self.completions: list[Completion] = []

    async def complete(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """Complete every prompt; see `CompletionClient.complete`."""
        self.requests.append((list(prompts), sampling, list(seeds)))
        found = await self._client.complete(prompts, sampling, seeds, on_completion)
        self.completions += found
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def by_turn(
    requests: "list[tuple[list[str], Sampling, list[int]]]",
) -> "list[tuple[list[str], Sampling, list[int]]]":
    """The requests of all batches, one for each turn; turns are told apart by their prompts."""
    order = sorted(requests, key=lambda request: len(request[0][0]))
    turns: dict[int, tuple[list[str], Sampling, list[int]]] = {}
    batches = len(requests) // 3
    for index, (prompts, sampling, seeds) in enumerate(order):
        turn = turns.setdefault(index // batches, ([], sampling, []))
        turn[0].extend(prompts)
        turn[2].extend(seeds)
    return list(turns.values())


def through_the_sweep(
    debate: Debate, client: CompletionClient, store: ArtifactStore
) -> tuple[float, Recorder]:
    """Seconds of a debate stage, and what it asked."""
    run_stage(debate.prompts, store)
    recorder = Recorder(client)
    conditions = Conditions(clients={digest(debate.debater): cast(CompletionClient, recorder)})
    started = time.perf_counter()
    outcome = asyncio.run(run_serve_stage(debate, store, conditions))
    seconds = time.perf_counter() - started
    if outcome.record is None:
        raise SystemExit(outcome.traceback)
    return seconds, recorder


def through_the_engine(engine: Any, turns: "list[tuple[list[str], Sampling, list[int]]]") -> float:
    """Seconds of the same prompts in the engine of this process."""
    from vllm import SamplingParams

    started = time.perf_counter()
    for prompts, sampling, seeds in turns:
        engine.generate(
            prompts,
            [
                SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                    min_tokens=sampling.min_tokens,
                    seed=seed,
                )
                for seed in seeds
            ],
            use_tqdm=False,
        )
    return time.perf_counter() - started


def measured(which: str, rows: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Both paths, in turns."""
    from vllm import LLM

    model = random_model(which, folder / "model")
    served = ServedModel(name="model", path=model.path, digest=digest(model))
    placement = Placement()
    closed = which == "almanac"
    task = Almanac() if closed else Questions(num_rows=rows)
    templates = (
        task.debate_prompts()
        if closed
        else DebatePrompts(max_tokens=(TURN_TOKENS,), exact_length=True, stop=())
    )
    store = ArtifactStore(str(folder / "store"))
    splits: list[Split] = ["val", "weak_train", "strong_train", "test"]
    backend = Vllm()
    engine = LLM(model.path, **engine_kwargs(served, placement))
    results = []
    started = time.perf_counter()
    with backend.serve([served], placement) as endpoints:
        start_s = time.perf_counter() - started
        for repeat, split in enumerate(splits[: repeats + 1]):
            debate = Debate(
                debater=model,
                prompts=Prompts(task=task),
                templates=templates,
                protocol=Sequential(),
                seed=0,
                splits=(split,),
            )
            client = backend.client(endpoints["model"])
            sweep_s, recorder = through_the_sweep(debate, client, store)
            raw_s = through_the_engine(engine, by_turn(recorder.requests))
            if repeat == 0:
                continue  # Both paths warm up.
            tokens = sum(found.num_tokens for found in recorder.completions)
            read = sum(found.num_prompt_tokens for found in recorder.completions)
            cached = sum(found.num_cached_tokens for found in recorder.completions)
            results.append(
                {
                    "debates": len(recorder.completions) // 3,
                    "tokens": tokens,
                    "sweep_s": sweep_s,
                    "raw_s": raw_s,
                    "ratio": raw_s / sweep_s,
                    "prefix_cache_hit_rate": cached / max(1, read),
                }
            )
    return {
        "model": which,
        "start_s": start_s,
        "ratio_to_raw_engine": statistics.median(result["ratio"] for result in results),
        "sweep_tokens_per_s": statistics.median(r["tokens"] / r["sweep_s"] for r in results),
        "raw_tokens_per_s": statistics.median(r["tokens"] / r["raw_s"] for r in results),
        "prefix_cache_hit_rate": statistics.median(r["prefix_cache_hit_rate"] for r in results),
        "repeats": results,
        "cpus": os.cpu_count(),
    }


def main() -> None:
    """Measure both paths and print."""
    parser = argparse.ArgumentParser(description="Debates per second against the raw engine.")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--model", choices=sorted(SHAPES), default="30m", help="what debates")
    parser.add_argument("--rows", type=int, default=192, help="debates a repeat (30m)")
    parser.add_argument("--repeats", type=int, choices=(1, 2, 3), default=3, help="measurements")
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder, cluster.connected():
        result = measured(arguments.model, arguments.rows, arguments.repeats, Path(folder))
    table = Table(title=f"debates of three turns, {arguments.model}", title_justify="left")
    for name in ("", "debates", "tokens", "sweep s", "raw s", "ratio", "prefix hits"):
        table.add_column(name, justify="right" if name else "left")
    for number, repeat in enumerate(result["repeats"], 1):
        table.add_row(
            str(number),
            str(repeat["debates"]),
            str(repeat["tokens"]),
            f"{repeat['sweep_s']:.2f}",
            f"{repeat['raw_s']:.2f}",
            f"{repeat['ratio']:.2f}",
            f"{repeat['prefix_cache_hit_rate']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{result['sweep_tokens_per_s']:.0f} tokens/s against {result['raw_tokens_per_s']:.0f}: "
        f"ratio {result['ratio_to_raw_engine']:.2f}; the app was up after {result['start_s']:.1f} s"
    )
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
