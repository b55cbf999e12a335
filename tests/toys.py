"""Stages that compute next to nothing, for tests of everything around them."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import SerializeAsAny

from w2s.stages.base import Lane, Stage, StageContext
from w2s.training.parallel import Replicas


class Number(Stage):
    """A light stage: a number."""

    value: int
    """The number."""
    fails: bool = False
    """Raise instead."""
    obstacle: str = ""
    """File whose existence makes the stage fail; empty: none."""

    @property
    def name(self) -> str:
        return f"number {self.value}"

    def run(self, context: StageContext) -> None:
        if self.fails or (self.obstacle and Path(self.obstacle).exists()):
            raise ArithmeticError(f"no number {self.value}")
        (context.output_dir / "number.json").write_text(json.dumps({"value": self.value}))


class Sum(Stage):
    """A train stage: the sum of its inputs, with a log of runs and a way to wait for a signal."""

    lane: ClassVar[Lane] = "train"

    inputs_: tuple[SerializeAsAny[Stage], ...] = ()
    """What is added up."""
    tag: str = ""
    """Tells stages apart."""
    log: str = ""
    """File that gets a line (tag, process id) per run; empty: none."""
    gate: str = ""
    """File that must appear before the stage ends; empty: none."""
    obstacle: str = ""
    """File whose existence makes the stage fail; empty: none."""
    model: str | None = None
    """Base model it holds."""
    work: float = 0.0
    """Its estimated cost."""

    @property
    def name(self) -> str:
        return f"sum-{self.tag}"

    @property
    def base_model(self) -> str | None:
        return self.model

    def cost(self) -> float:
        return self.work

    def run(self, context: StageContext) -> None:
        if self.log and (context.replicas or Replicas()).rank == 0:
            with open(self.log, "a") as log:
                log.write(f"{self.tag} {os.getpid()}\n")
        if self.obstacle and Path(self.obstacle).exists():
            raise ArithmeticError(f"{self.tag} meets an obstacle")
        step = 0
        while self.gate and not Path(self.gate).exists():
            step += 1
            context.progress(step, 1000, {"step": float(step)})
            time.sleep(0.05)
        total = sum(read(context.path(stage)) for stage in self.inputs_)
        context.progress(1, 1, {"total": float(total)})
        (context.output_dir / "number.json").write_text(json.dumps({"value": total}))


class Descent(Stage):
    """A train stage: a few steps of gradient descent on a linear model, shared by all replicas."""

    lane: ClassVar[Lane] = "train"

    num_rows: int = 10
    """Rows of every update."""
    fails_on: int | None = None
    """Rank that raises instead of training."""

    def run(self, context: StageContext) -> None:
        replicas = context.replicas or Replicas()
        if replicas.rank == self.fails_on:
            raise ArithmeticError(f"rank {replicas.rank} refuses")
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(self.num_rows, 4, generator=generator)
        targets = torch.randn(self.num_rows, generator=generator)
        weight = torch.nn.Parameter(torch.zeros(4))
        share = replicas.slice(self.num_rows)
        for step in range(5):
            loss = (inputs[share] @ weight - targets[share]).square().sum() / self.num_rows
            loss.backward()
            replicas.sum_gradients([weight])
            assert weight.grad is not None
            weight.data.sub_(0.1 * weight.grad)
            weight.grad = None
            total = replicas.sum(loss.detach().clone())
            context.progress(step + 1, 5, {"loss": float(total)})
        (context.output_dir / "number.json").write_text(
            json.dumps({"value": weight.tolist(), "replicas": replicas.size})
        )


class Together(Stage):
    """A train stage whose workers add up numbers until a file appears."""

    lane: ClassVar[Lane] = "train"

    log: str
    """File that gets a line (rank, process id) per worker and attempt."""
    gate: str
    """File that ends it."""

    def run(self, context: StageContext) -> None:
        replicas = context.replicas or Replicas()
        with open(self.log, "a") as log:
            log.write(f"{replicas.rank} {os.getpid()}\n")
        total, step = torch.zeros(1), 0
        while not float(total):
            step += 1
            open_now = replicas.rank == 0 and Path(self.gate).exists()
            total = replicas.sum(torch.tensor([float(open_now)]))
            context.progress(step, 0, {"step": float(step)})
        if replicas.rank == 0:
            (context.output_dir / "number.json").write_text("{}")


class Chat(Stage):
    """A serve stage: completions of the client of one model, kept as they come."""

    lane: ClassVar[Lane] = "serve"

    model: SerializeAsAny[Stage] | None = None
    """Model that must be served; None: none."""
    fails_at: int | None = None
    """Line at which the first attempt raises."""

    @property
    def served_models(self) -> tuple[Stage, ...]:
        return () if self.model is None else (self.model,)

    async def run(self, context: StageContext) -> None:  # pyright: ignore
        path = context.output_dir / "lines.txt"
        found = path.read_text().splitlines() if path.exists() else []
        for line in range(len(found), 4):
            if line == self.fails_at and not found:
                raise ArithmeticError(f"line {line}")
            await asyncio.sleep(0)
            with open(path, "a") as file:
                file.write(f"{line} after {len(found)}\n")
            context.progress(line + 1, 4, {})


def read(folder: Path) -> int:
    """The number in an artifact."""
    return json.loads((folder / "number.json").read_text())["value"]
