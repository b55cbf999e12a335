"""Finetuning on a GPU against transformers.Trainer: tokens a second, MFU and peak memory.

    python benchmarks/gpu_finetune.py [--json] [--rounds 5] [--models 0.5B,1.5B] [--peak-tflops T]
    python benchmarks/gpu_finetune.py --tiny        # shows on a CPU, in a minute, that it runs

Qwen2-shaped decoders with random weights learn to classify synthetic texts of 64 to 512 tokens in
bf16: the whole model, and low-rank adapters, with and without torch.compile. The Trainer runs with
bf16 autocast, fused AdamW, batches grouped by length, two pinning loader processes, and no logging,
evaluation or saving. Both make the same number of updates of as many texts; ours cuts an update
into passes of at most `--tokens` tokens, the Trainer into as many as keep its longest rows under
them.

Each loop makes a whole training as a warm-up (kernels are compiled and memory is claimed), then
`--rounds` more, which take turns with nothing. `tokens_per_s` counts the texts' own tokens, no
padding. MFU is the arithmetic that the gradients of these tokens need, over what the device could
do in the time: products are counted one by one on the model as it is trained
(`w2s.training.flops`), so what a head that reads one token leaves out is not counted, nor is what
activation checkpointing computes again. It needs no Ray and no vLLM.
"""

import argparse
import gc
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen2Model,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from w2s.losses.xent import Xent
from w2s.models.adapters import add_adapters
from w2s.models.classifier import Classifier, copy_backbone, fresh_head, prepare_backbone
from w2s.training.acceleration import accelerate
from w2s.training.batching import TokenRows, padding_share, plan_updates
from w2s.training.config import LoraConfig, TrainConfig
from w2s.training.flops import training_flops
from w2s.training.loop import finetune
from w2s.types import Acceleration

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "L4": 121.0,
}
"""Dense bf16 products by what a device's name contains, from the makers' data sheets."""
LORA = LoraConfig()


@dataclass(frozen=True)
class Shape:
    """A model and what it learns from."""

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int = 151_936
    shortest: int = 64
    longest: int = 512
    num_rows: int = 2048
    batch_size: int = 64

    def config(self) -> Qwen2Config:
        """For transformers."""
        return Qwen2Config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            max_position_embeddings=4096,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
            use_cache=False,
        )

    def train_config(self, mode: str) -> TrainConfig:
        """One epoch."""
        return TrainConfig.model_validate(
            {"mode": mode, "lora": LORA, "epochs": 1, "batch_size": self.batch_size}
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("0.5B", 896, 24, 14, 2, 4864),
        Shape("1.5B", 1536, 28, 12, 2, 8960),
        Shape("tiny", 64, 2, 2, 1, 128, 512, shortest=8, longest=32, num_rows=64, batch_size=16),
    )
}


@dataclass(frozen=True)
class Texts:
    """Made-up texts and labels."""

    token_ids: list[list[int]]
    labels: list[int]

    @property
    def num_tokens(self) -> int:
        """Of all texts."""
        return sum(len(ids) for ids in self.token_ids)


def made_up(shape: Shape) -> Texts:
    """Texts of evenly spread lengths."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(shape.shortest, shape.longest + 1, size=shape.num_rows)
    token_ids = [rng.integers(1, shape.vocab_size, size=length).tolist() for length in lengths]
    return Texts(token_ids, rng.integers(0, 2, size=shape.num_rows).tolist())


class Items(Dataset[dict[str, Tensor]]):
    """The texts as the Trainer wants them."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.tensor(self._texts.token_ids[index])
        return {"input_ids": ids, "labels": torch.tensor(self._texts.labels[index])}


def padded(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Collate on the right with id 0, which no text contains."""
    ids_BT = pad_sequence([item["input_ids"] for item in items], batch_first=True)
    labels = torch.stack([item["labels"] for item in items])
    return {"input_ids": ids_BT, "attention_mask": (ids_BT != 0).long(), "labels": labels}


@dataclass(frozen=True)
class Case:
    """One way to train."""

    loop: str
    """`ours` or `trainer`."""
    mode: str
    """`full` or `lora`."""
    compile: bool

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.loop} {self.mode}{' compiled' if self.compile else ''}"


CASES = [
    Case(loop, mode, compile)
    for mode in ("full", "lora")
    for compile in (False, True)
    for loop in ("ours", "trainer")
]


def ours(
    shape: Shape, texts: Texts, case: Case, tokens: int, device: str
) -> tuple[Callable[[], object], float, float]:
    """A training to be timed, the operations that it needs, and its share of padding."""
    rows = TokenRows.from_lists(texts.token_ids)
    targets_NC = np.eye(2)[texts.labels]
    config = shape.train_config(case.mode)
    torch.manual_seed(0)
    with torch.device(device):
        base = prepare_backbone(Qwen2Model(shape.config()))
    backbone = copy_backbone(base, share=case.mode == "lora")
    del base
    if case.mode == "lora":
        add_adapters(backbone, rank=LORA.rank, alpha=LORA.alpha, target_modules=(), seed=0)
    head = fresh_head(backbone, 2, head_init="random", seed=0, options=False)
    classifier = Classifier(backbone, head).to(device)
    flops = training_flops(classifier, rows, config, seed=0, device=device)
    accelerate(classifier.backbone, Acceleration(compile=case.compile))
    padding = padding_share(
        rows.lengths,
        plan_updates(rows.lengths, batch_size=config.batch_size, epochs=1, seed=0),
    )

    def train() -> None:
        finetune(
            classifier,
            rows,
            targets_NC,
            Xent(),
            config,
            seed=0,
            device=device,
            precision="bf16",
            micro_batch_tokens=tokens,
        )

    return train, flops * (1 - padding), padding


def trainers(
    shape: Shape, texts: Texts, case: Case, tokens: int, device: str, folder: str
) -> Callable[[], object]:
    """A training of the Trainer to be timed."""
    rows_a_pass = max(1, min(shape.batch_size, tokens // shape.longest))
    rows_a_pass = 2 ** int(math.log2(rows_a_pass))
    on_cpu = device == "cpu"
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=rows_a_pass,
        gradient_accumulation_steps=shape.batch_size // rows_a_pass,
        num_train_epochs=1,
        learning_rate=5e-5,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_grad_norm=1.0,
        bf16=True,
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0 if on_cpu else 2,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        torch_compile=case.compile,
        use_cpu=on_cpu,
        seed=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: PreTrainedModel | nn.Module = Qwen2ForSequenceClassification(shape.config())
    if case.mode == "lora":
        from peft import LoraConfig as PeftConfig
        from peft import get_peft_model

        model = get_peft_model(
            model,  # pyright: ignore[reportArgumentType]
            PeftConfig(
                task_type="SEQ_CLS",
                r=LORA.rank,
                lora_alpha=LORA.alpha,  # pyright: ignore[reportArgumentType]  # a factor
                target_modules="all-linear",
            ),
        )

    def train() -> None:
        trainer = Trainer(
            model=model, args=arguments, train_dataset=Items(texts), data_collator=padded
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        assert trainer.state.global_step == math.ceil(shape.num_rows / shape.batch_size)

    return train


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall time, until the device is done."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    """Until the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()


def peak_tflops(device: str) -> tuple[float, str]:
    """What the device could do at most, and how that is known."""
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    for part, value in PEAK_TFLOPS.items():
        if part in name:
            return value, f"data sheet of {part}"
    size = 8192 if device != "cpu" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(seconds(lambda: a @ b, device) for _ in range(10))
    return 2 * size**3 / best / 1e12, f"measured on products of {size} x {size}"


def measure(
    shape: Shape, cases: list[Case], rounds: int, tokens: int, device: str, peak: float
) -> Iterator[dict]:
    """One row of the table for each way to train."""
    texts = made_up(shape)
    needed: dict[str, float] = {}
    for case in cases:
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        torch.compiler.reset()
        padding = None
        with tempfile.TemporaryDirectory() as folder:
            if case.loop == "ours":
                train, needed[case.mode], padding = ours(shape, texts, case, tokens, device)
            else:
                train = trainers(shape, texts, case, tokens, device, folder)
            warm_up_s = seconds(train, device)
            found = [seconds(train, device) for _ in range(rounds)]
        median_s = statistics.median(found)
        yield {
            "model": shape.name,
            "case": case.name,
            "tokens_per_s": texts.num_tokens / median_s,
            "mfu": needed[case.mode] / median_s / (peak * 1e12),
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else None,
            "padding_share": padding,
            "seconds": median_s,
            "seconds_low": min(found),
            "seconds_high": max(found),
            "warm_up_seconds": warm_up_s,
            "rounds": rounds,
        }
        del train


def ratios(rows: list[dict]) -> dict[str, float]:
    """Our best tokens a second over the Trainer's best, by model and mode."""
    found = {}
    for model in dict.fromkeys(row["model"] for row in rows):
        for mode in ("full", "lora"):
            best = {
                loop: max(
                    row["tokens_per_s"]
                    for row in rows
                    if row["model"] == model and row["case"].startswith(f"{loop} {mode}")
                )
                for loop in ("ours", "trainer")
            }
            found[f"ratio_to_hf_trainer {model} {mode}"] = best["ours"] / best["trainer"]
    return found


def main() -> None:
    """Measure, print a table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=5, help="timed trainings of each kind")
    parser.add_argument("--models", default="0.5B,1.5B", help="some of 0.5B, 1.5B, tiny")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of a pass at most")
    parser.add_argument("--peak-tflops", type=float, help="bf16 peak of the device")
    parser.add_argument("--tiny", action="store_true", help="a toy on the CPU, nothing compiled")
    arguments = parser.parse_args()
    if arguments.tiny:
        device, models, rounds, tokens = "cpu", ["tiny"], 1, 256
        cases = [case for case in CASES if not case.compile]
    elif not torch.cuda.is_available():
        parser.error("no GPU found; --tiny shows on a CPU that the benchmark runs")
    else:
        device, rounds, tokens = "cuda", arguments.rounds, arguments.tokens
        models, cases = arguments.models.split(","), CASES
    logging.set_verbosity_error()
    torch.set_float32_matmul_precision("high")
    peak, known = peak_tflops(device)
    if arguments.peak_tflops:
        peak, known = arguments.peak_tflops, "given"
    print(f"peak {peak:.1f} TFLOP/s bf16 ({known}); torch {torch.__version__}")
    print(f"{'model':6} {'case':24} {'tokens/s':>10} {'MFU':>6} {'GiB':>6} {'seconds':>8}")
    rows = []
    for name in models:
        for row in measure(SHAPES[name], cases, rounds, tokens, device, peak):
            rows.append(row)
            memory = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
            print(
                f"{name:6} {row['case']:24} {row['tokens_per_s']:10.0f} {row['mfu']:6.1%} "
                f"{memory:>6} {row['seconds']:8.2f}",
                flush=True,
            )
    found = ratios(rows)
    for ratio, value in found.items():
        print(f"{ratio}: {value:.2f}")
    if arguments.json:
        print(json.dumps({"peak_tflops": peak, "peak_is": known, "rows": rows, **found}))


if __name__ == "__main__":
    main()
