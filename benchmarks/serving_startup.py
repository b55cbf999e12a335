"""Where the time goes until a served model answers: the first of a cluster, and one after it.

    python benchmarks/serving_startup.py [--json] [--repeats 2]

A tiny random Llama, so that what is measured is processes, imports and the engine, not weights.
Phases of a start, in seconds:

    serve     Serve's controller and HTTP proxy start (first model only)
    import    this process loads vLLM (first model only)
    replica   from the deployment to the start of the replica's process
    engine    the replica loads vLLM and starts the engine's process
    model     the engine's process loads vLLM and the model, and the app reports itself up
    answer    the first completion

`again` is a model that is up and asked for again, as by the next stage of a sweep that names it.
Processor time is that of this process, the replica and the engine together: unlike the seconds, it
hardly depends on what else the machine does.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from serving.backends.vllm import Vllm, start_serve
from serving.messages import Sampling
from serving.models import Endpoint, Placement, ServedModel
from sweeps import cluster
from w2s.models.architecture import Architecture

PHASES = ("serve", "import", "replica", "engine", "model", "answer")
CPU = "processor time"
SHAPE = Architecture(hidden_size=64, num_layers=2, num_heads=2, head_dim=32, intermediate_size=128)
WORDS = 200


def save_model(folder: Path) -> None:
    """A random Llama with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", *(f"w{index}" for index in range(WORDS))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<eos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    SHAPE.build(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def started(title: str) -> dict[int, float]:
    """Start of each process below this one with a word in its title, by process id."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found[process.pid] = process.create_time()
    return found


def processor_s() -> float:
    """Processor time of this process, and of all replicas and engines below it."""
    found = psutil.Process().cpu_times()
    total = found.user + found.system
    for pid in {**started("ServeReplica"), **started("EngineCore")}:
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def first_answer(endpoint: Endpoint) -> float:
    """Seconds of one completion by a new client."""

    async def ask() -> None:
        client = Vllm().client(endpoint)
        await client.complete(["w1 w2"], Sampling(max_tokens=1), [0])

    begun = time.time()
    asyncio.run(ask())
    return time.time() - begun


def start(model: ServedModel) -> tuple[Endpoint, dict[str, float]]:
    """Bring a model up and say how long each phase took."""
    known = {**started("ServeReplica"), **started("EngineCore")}
    begun = time.time()
    endpoint = Vllm().deploy(model, Placement())
    up = time.time()
    (replica,) = (at for pid, at in started("ServeReplica").items() if pid not in known)
    (engine,) = (at for pid, at in started("EngineCore").items() if pid not in known)
    phases = {"replica": max(0.0, replica - begun), "engine": engine - max(replica, begun)}
    return endpoint, {**phases, "model": up - engine, "answer": first_answer(endpoint)}


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """Phases of a first model, of a second, and of asking for one that is up."""
    connection = cluster.connect()
    try:
        marks = [processor_s()]
        begun = time.time()
        start_serve(0)
        serve_s = time.time() - begun
        begun = time.time()
        Vllm().prepare()
        import_s = time.time() - begun
        models = [ServedModel(name=name, path=str(folder)) for name in ("first", "second")]
        _, cold = start(models[0])
        marks.append(processor_s())
        _, second = start(models[1])
        marks.append(processor_s())
        begun = time.time()
        endpoint = Vllm().deploy(models[0], Placement())
        again = {"model": time.time() - begun, "answer": first_answer(endpoint)}
    finally:
        cluster.disconnect(connection)
    return {
        "cold": {"serve": serve_s, "import": import_s, **cold, CPU: marks[1] - marks[0]},
        "second": {**second, CPU: marks[2] - marks[1]},
        "again": again,
    }


def in_all(phases: dict[str, float]) -> float:
    """Seconds of all phases."""
    return sum(seconds for name, seconds in phases.items() if name in PHASES)


def main() -> None:
    """Print a table, or one JSON object as the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--repeats", type=int, default=1, help="clusters (default: %(default)s)")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        runs = [measured(Path(folder)) for _ in range(arguments.repeats)]
    kinds = list(runs[0])
    medians: dict[str, dict[str, float]] = {
        kind: {
            phase: statistics.median(run[kind][phase] for run in runs)
            for phase in (*PHASES, CPU)
            if phase in runs[0][kind]
        }
        for kind in kinds
    }
    table = Table(title="seconds until a served model answers", title_justify="left")
    for name in ("start", *PHASES, "in all", CPU):
        table.add_column(name, justify="left" if name == "start" else "right")
    for kind, phases in medians.items():
        cells = [f"{phases[name]:.1f}" if name in phases else "" for name in (*PHASES, CPU)]
        table.add_row(kind, *cells[:-1], f"{in_all(phases):.1f}", cells[-1])
    Console().print(table)
    if arguments.json:
        found: dict[str, Any] = {
            "benchmark": "serving_startup",
            "seconds": medians,
            "in_all": {kind: in_all(phases) for kind, phases in medians.items()},
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
