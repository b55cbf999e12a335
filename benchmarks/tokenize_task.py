"""A table of 500,000 rows: seconds and memory to load, split and tokenize it.

    python benchmarks/tokenize_task.py [--json] [--rows 500000]

The table is a parquet file with made-up texts of 20 to 60 words and a label; the tokenizer is a
byte-level BPE of 8,000 tokens trained on them. A fresh process then runs the stages `Prompts` and
`Tokens` on it, as a sweep does, once; the peak memory is that of this process, its libraries
included. Reading the tokens back is what every training of the sweep does.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

VOCABULARY = 20_000
TOKENS = 8_000


def make(folder: Path, num_rows: int) -> None:
    """Write `table.parquet`, and a folder `model` with a config and a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(
        ["".join(rng.choice(letters, size=size)) for size in rng.integers(2, 9, size=VOCABULARY)]
    )
    texts = [
        " ".join(words[rng.zipf(1.3, size=size) % VOCABULARY])
        for size in rng.integers(20, 61, size=num_rows)
    ]
    labels = rng.integers(0, 2, size=num_rows)
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(folder / "table.parquet")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel()
    raw.train_from_iterator(
        texts[:5000], trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=["<pad>"])
    )
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>").save_pretrained(
        folder / "model"
    )
    LlamaConfig(vocab_size=TOKENS).save_pretrained(folder / "model")


def measure(folder: Path) -> dict[str, float]:
    """Seconds and CPU seconds (all threads) of each step, peak memory in GB, rows and tokens."""
    from w2s.models.source import PretrainedModel
    from w2s.spec import parse
    from w2s.stages.base import StageContext
    from w2s.stages.data import Prompts
    from w2s.stages.tokens import Tokens, read_tokens
    from w2s.tasks.base import Task, load

    task = parse(
        Task,
        {
            "kind": "table",
            "path": str(folder / "table.parquet"),
            "prompt": "{text}",
            "label": "label",
        },
    )
    prompts = Prompts(task=task, data="benchmark")
    tokens = Tokens(
        model=PretrainedModel(path=str(folder / "model"), fingerprint="benchmark"),
        prompts=prompts,
        max_length=256,
    )
    places = {stage.key: folder / stage.kind for stage in (prompts, tokens)}
    results: dict[str, float] = {}

    def step(name: str, work: Callable[[], object]) -> None:
        started, busy = time.perf_counter(), time.process_time()
        work()
        results[f"{name}_s"] = time.perf_counter() - started
        results[f"{name}_cpu_s"] = time.process_time() - busy

    step("load_and_split", lambda: load(task))
    for stage in (prompts, tokens):
        places[stage.key].mkdir()
        context = StageContext(output_dir=places[stage.key], inputs=places)
        step(stage.kind, lambda stage=stage, context=context: stage.run(context))
    results["total_s"] = sum(value for name, value in results.items() if "cpu" not in name)
    results["total_cpu_s"] = sum(value for name, value in results.items() if "cpu" in name)
    results["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    step("read_tokens", lambda: read_tokens(places[tokens.key]))
    table = read_tokens(places[tokens.key])
    results["rows"] = len(table.rows)
    results["tokens"] = int(table.rows.lengths.sum())
    return results


def main() -> None:
    """Make the table, measure, print a table, and with `--json` one JSON object at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the table")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), arguments.rows)
        command = [sys.executable, __file__, "--measure", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    results = json.loads(done.stdout.splitlines()[-1])
    for name, value in results.items():
        print(f"{name:20} {value:14,.3f}")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
