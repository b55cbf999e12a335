"""A hundred linear probes on features that are computed once: seconds a probe, and in all.

    python benchmarks/probe_sweep.py [--json] [--probes 100] [--rows 2000] [--width 256]

The features are made up: half of each split's rows of each of two classes, a noisy direction
between them. The probes differ in loss, weight decay and seed; each takes 200 epochs of 128 rows,
reads its labels, predicts three splits and is committed to a store, as in a sweep, in one process.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

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


def measure(num_probes: int, rows: int, width: int) -> dict[str, float]:
    """Seconds and CPU seconds of all probes, a probe, and of the slowest loss."""
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
    with tempfile.TemporaryDirectory() as folder:
        store, conditions = ArtifactStore(str(Path(folder))), Conditions()
        for stage in (features, labels):
            assert not run_stage(stage, store).cause
        started, busy = time.perf_counter(), time.process_time()
        for probe in probes:
            before = time.perf_counter()
            outcome = run_stage(probe, store, conditions)
            assert not outcome.cause, outcome.traceback
            by_loss[probe.loss.kind].append(time.perf_counter() - before)
        total_s, cpu_s = time.perf_counter() - started, time.process_time() - busy
    return {
        "probes": num_probes,
        "total_s": total_s,
        "total_cpu_s": cpu_s,
        "s_per_probe": total_s / num_probes,
        "cpu_s_per_probe": cpu_s / num_probes,
        **{f"{kind}_s": float(np.mean(times)) for kind, times in by_loss.items() if times},
    }


def main() -> None:
    """Measure, print a table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--probes", type=int, default=100, help="number of probes")
    parser.add_argument("--rows", type=int, default=2000, help="rows of each split")
    parser.add_argument("--width", type=int, default=256, help="numbers of a row")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(arguments.probes, arguments.rows, arguments.width)
    for name, value in results.items():
        print(f"{name:16} {value:10.3f}")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
