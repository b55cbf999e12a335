"""A hundred linear probes on features that are computed once: seconds a probe, and in all.

    python benchmarks/probe_sweep.py [--json] [--probes 100] [--rows 2000] [--workers 2]

The features are made up: half of each split's rows of each of two classes, a noisy direction
between them. The probes differ in loss, weight decay and seed; each takes 200 epochs of 128 rows,
reads its labels, predicts three splits and is committed to a store, as in a sweep, by as many
processes of one thread as there are cores (a sweep's gangs), whose start is left out.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file

from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_stage
from w2s.losses.base import Loss
from w2s.models.source import PretrainedModel
from w2s.spec import parse
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import Prompts
from w2s.stages.features import FEATURES_FILE, Features
from w2s.stages.predictions import write_predictions
from w2s.stages.probe import Probe
from w2s.stages.tokens import INDEX_FILE, Tokens
from w2s.tasks.almanac import Almanac
from w2s.training.config import ProbeConfig
from w2s.types import SPLITS

LOSSES = ("xent", "confidence", "product", "kl")


class MadeUpFeatures(Features):
    """Features of no model."""

    rows: int
    """Rows of each split."""
    width: int
    """Numbers of a row."""

    @property
    def inputs(self) -> tuple[Stage, ...]:
        """None."""
        return ()

    def run(self, context: StageContext) -> None:
        """Write features of rows whose class is that of their number."""
        rng = np.random.default_rng(0)
        index = pd.DataFrame(
            [(split, f"{split}-{row}") for split in SPLITS for row in range(self.rows)],
            columns=["split", "row_id"],
        )
        features = rng.normal(size=(len(index), self.width)).astype(np.float32)
        features[1::2, : self.width // 8] += 0.3
        index.to_parquet(context.output_dir / INDEX_FILE, index=False)
        save_file({"features": features}, context.output_dir / FEATURES_FILE)


class MadeUpLabels(Stage):
    """Weak labels of the made-up rows, right in four cases of five."""

    rows: int
    """Rows of each split."""

    def run(self, context: StageContext) -> None:
        """Write predictions of `strong_train`."""
        rng = np.random.default_rng(1)
        right_N = rng.random(self.rows) < 0.8
        p1_N = np.where((np.arange(self.rows) % 2 == 1) == right_N, 0.8, 0.2)
        write_predictions(
            context.output_dir,
            ["strong_train"] * self.rows,
            [f"strong_train-{row}" for row in range(self.rows)],
            np.log(np.stack([1 - p1_N, p1_N], 1)),
        )


def measure(num_probes: int, rows: int, width: int, num_workers: int) -> dict[str, float]:
    """Seconds and CPU seconds of all probes, and seconds a probe by loss."""
    model = PretrainedModel(path="made up", fingerprint="made up")
    tokens = Tokens(model=model, prompts=Prompts(task=Almanac()))
    features = MadeUpFeatures(source=model, tokens=tokens, rows=rows, width=width)
    labels = MadeUpLabels(rows=rows)
    probes = [
        Probe(
            features=features,
            labels=labels,
            train_split="strong_train",
            loss=parse(Loss, LOSSES[number % len(LOSSES)]),
            train=ProbeConfig(weight_decay=0.01 * (number // len(LOSSES) % 5)),
            seed=number,
        )
        for number in range(num_probes)
    ]
    by_loss: dict[str, list[float]] = {kind: [] for kind in LOSSES}
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(num_workers, multiprocessing.get_context("fork")) as pool,
    ):
        store = ArtifactStore(folder)
        for stage in (features, labels):
            assert not run_stage(stage, store).cause
        # Libraries are loaded, and the processes are up, before the clock starts.
        _run(folder, probes[0].model_copy(update={"seed": num_probes}))
        list(pool.map(_ready, range(num_workers), chunksize=1))
        started = time.perf_counter()
        cpu_s = 0.0
        for probe, seconds, busy in pool.map(partial(_run, folder), probes, chunksize=1):
            by_loss[probe.loss.kind].append(seconds)
            cpu_s += busy
        total_s = time.perf_counter() - started
    return {
        "probes": num_probes,
        "workers": num_workers,
        "total_s": total_s,
        "total_cpu_s": cpu_s,
        "cpu_s_per_probe": cpu_s / num_probes,
        **{f"{kind}_s": float(np.mean(times)) for kind, times in by_loss.items() if times},
    }


CONDITIONS = Conditions()
"""Of each process: features stay in its memory."""


def _ready(number: int) -> int:
    torch.set_num_threads(1)
    time.sleep(0.5)
    return number


def _run(folder: str, probe: Probe) -> tuple[Probe, float, float]:
    """A probe, its seconds and its CPU seconds."""
    started, busy = time.perf_counter(), time.process_time()
    outcome = run_stage(probe, ArtifactStore(folder), CONDITIONS)
    assert not outcome.cause, outcome.traceback
    return probe, time.perf_counter() - started, time.process_time() - busy


def main() -> None:
    """Measure, print a table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--probes", type=int, default=100, help="number of probes")
    parser.add_argument("--rows", type=int, default=2000, help="rows of each split")
    parser.add_argument("--width", type=int, default=256, help="numbers of a row")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    results = measure(arguments.probes, arguments.rows, arguments.width, arguments.workers)
    for name, value in results.items():
        print(f"{name:16} {value:10.3f}")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
