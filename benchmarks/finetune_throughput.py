"""Finetuning speed against transformers.Trainer in CPU seconds: same model, texts, batch and steps.

    python benchmarks/finetune_throughput.py [--json] [--rounds 7]

A GPT-2 of 1 million parameters (4 blocks of width 128, vocabulary of 2,048, no dropout) learns
from 1,000 synthetic texts of 20 to 120 tokens, 32 an update, for one epoch on one thread. The
Trainer runs at the best settings found for it: length-grouped batches, a collator that only pads,
fused AdamW, loading in the main process, no logging, evaluation or saving. `--tanh-gelu` also gives
it the one-kernel form of GPT-2's activation, which the project's loader puts in by itself.

The two take turns in one process after a warm-up; the figure is the median over rounds of the
ratio of their examples per CPU second. Other load on the machine is in both.

They start at the same weights, and the last token of a text tells its label. In the warm-up the
Trainer is given our updates, optimizer and schedule, and logs every loss: `loss_gap` is the largest
difference, in nats, between the losses of any of its steps and of ours. (Left to itself it draws
other rows, and its warm-up begins at a learning rate of 0, a step behind ours.)
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Model,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from w2s.losses.xent import Xent
from w2s.models.classifier import Classifier, prepare_backbone
from w2s.training.batching import TokenRows, padding_share, plan_updates
from w2s.training.config import TrainConfig, learning_rate_factor
from w2s.training.loop import decay_groups, finetune, predict

NUM_ROWS = 1000
CONFIG = TrainConfig(learning_rate=1e-3, epochs=1, batch_size=32, schedule="cosine")


class Texts(Dataset[dict[str, Tensor]]):
    """Texts and labels as the Trainer wants them."""

    def __init__(self, token_ids: list[list[int]], labels: list[int]) -> None:
        self._items = [
            {"input_ids": torch.tensor(ids), "labels": torch.tensor(label)}
            for ids, label in zip(token_ids, labels, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._items[index]


class Collator:
    """Pads on the right with id 0, which no text contains, and counts tokens."""

    real_tokens = 0
    all_tokens = 0

    def __call__(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Input ids, mask and labels of a batch."""
        input_ids_BT = pad_sequence([item["input_ids"] for item in items], batch_first=True)
        mask_BT = (input_ids_BT != 0).long()
        self.real_tokens += int(mask_BT.sum())
        self.all_tokens += mask_BT.numel()
        labels = torch.stack([item["labels"] for item in items])
        return {"input_ids": input_ids_BT, "attention_mask": mask_BT, "labels": labels}


class OurUpdates(Trainer):
    """The Trainer with the rows of each update as the project draws them."""

    updates: Sequence[NDArray[np.int64]]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The updates, in order."""
        rows = [update.tolist() for update in self.updates]
        texts = cast(Texts, self.train_dataset)
        return DataLoader(texts, batch_sampler=rows, collate_fn=self.data_collator)


def our_steps(model: GPT2ForSequenceClassification, num_steps: int) -> tuple[AdamW, LambdaLR]:
    """Optimizer and schedule of the project for a model of the Trainer."""
    matrices, others = decay_groups(model.transformer)
    decayed = [*matrices, model.score.weight]
    optimizer = AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=CONFIG.learning_rate,
        betas=CONFIG.betas,
        weight_decay=CONFIG.weight_decay,
        fused=True,
    )

    def factor(step: int) -> float:
        at = min(step, num_steps - 1)  # asked for once more at the end
        return learning_rate_factor(CONFIG.schedule, CONFIG.warmup_fraction, at, num_steps)

    return optimizer, LambdaLR(optimizer, factor)


def gpt2_config(activation: str) -> GPT2Config:
    """About a million parameters."""
    return GPT2Config(
        vocab_size=2048,
        n_embd=128,
        n_layer=4,
        n_head=4,
        n_positions=128,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function=activation,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )


def training_arguments(folder: str, log_losses: bool) -> TrainingArguments:
    """The Trainer's best settings for this job, or those with a curve."""
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=CONFIG.batch_size,
        num_train_epochs=CONFIG.epochs,
        learning_rate=CONFIG.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=CONFIG.warmup_fraction,
        max_grad_norm=CONFIG.max_grad_norm or 0.0,
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        logging_strategy="steps" if log_losses else "no",
        logging_steps=1,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=True,
        seed=0,
    )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the process, all its threads, while `work` runs."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(rounds: int, tanh_gelu: bool) -> dict[str, float]:
    """Examples per CPU second of both loops, their ratio, and what goes with them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 121, size=NUM_ROWS)
    labels = rng.integers(0, 2, size=NUM_ROWS)
    token_ids = [
        [*rng.integers(3, 2048, size=length - 1).tolist(), 1 + label]
        for length, label in zip(lengths, labels.tolist(), strict=True)
    ]
    rows = TokenRows.from_lists(token_ids)
    texts = Texts(token_ids, labels.tolist())
    targets_NC = np.eye(2)[labels]
    trainer_config = gpt2_config("gelu_pytorch_tanh" if tanh_gelu else "gelu_new")
    base = prepare_backbone(GPT2Model(gpt2_config("gelu_new")))
    updates = plan_updates(rows.lengths, batch_size=CONFIG.batch_size, epochs=CONFIG.epochs, seed=0)
    collator = Collator()
    rates: dict[str, list[float]] = {"ours": [], "trainer": [], "labelling": []}
    loss_gap = math.nan

    with tempfile.TemporaryDirectory() as folder:
        for round_index in range(rounds + 1):
            classifier = Classifier.fresh(base, 2, seed=0)
            theirs = GPT2ForSequenceClassification(trainer_config)
            theirs.transformer.load_state_dict(base.state_dict())
            theirs.score.load_state_dict(classifier.head.state_dict())
            curve: list[dict[str, float]] = []
            ours_s = cpu_seconds(
                lambda model=classifier, curve=curve: curve.extend(
                    finetune(model, rows, targets_NC, Xent(), CONFIG, seed=0)
                )
            )
            labelling_s = cpu_seconds(lambda model=classifier: predict(model, rows))
            is_warm_up = round_index == 0
            trainer = (OurUpdates if is_warm_up else Trainer)(
                model=theirs,
                args=training_arguments(folder, log_losses=is_warm_up),
                train_dataset=texts,
                data_collator=collator,
                optimizers=our_steps(theirs, len(updates)) if is_warm_up else (None, None),
            )
            trainer.remove_callback(PrinterCallback)
            if isinstance(trainer, OurUpdates):
                trainer.updates = updates
            trainer_s = cpu_seconds(trainer.train)
            assert trainer.state.global_step == len(updates)
            if is_warm_up:
                logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
                pairs = zip([point["loss"] for point in curve], logged, strict=True)
                loss_gap = max(abs(ours - theirs) for ours, theirs in pairs)
                collator.real_tokens = collator.all_tokens = 0
            else:
                rates["ours"].append(NUM_ROWS * CONFIG.epochs / ours_s)
                rates["trainer"].append(NUM_ROWS * CONFIG.epochs / trainer_s)
                rates["labelling"].append(NUM_ROWS / labelling_s)

    ten_epochs = plan_updates(rows.lengths, batch_size=CONFIG.batch_size, epochs=10, seed=0)
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["trainer"], strict=True)]
    training = statistics.median(rates["ours"])
    return {
        "ratio_to_hf_trainer": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "examples_per_cpu_s": training,
        "hf_trainer_examples_per_cpu_s": statistics.median(rates["trainer"]),
        "labelling_examples_per_cpu_s": statistics.median(rates["labelling"]),
        "labelling_to_training": statistics.median(rates["labelling"]) / training,
        "padding_share": padding_share(rows.lengths, ten_epochs),
        "hf_trainer_padding_share": 1 - collator.real_tokens / collator.all_tokens,
        "loss_gap": loss_gap,
        "optimizer_steps": len(updates),
        "rounds": rounds,
    }


def main() -> None:
    """Measure, print a table, and with `--json` one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each loop, at least 5")
    parser.add_argument(
        "--tanh-gelu", action="store_true", help="give the Trainer's model the fast activation too"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error(f"--rounds is at least 5; found {arguments.rounds}")
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    results = measure(arguments.rounds, arguments.tanh_gelu)
    for name, value in results.items():
        print(f"{name:32} {value:12.5g}")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
