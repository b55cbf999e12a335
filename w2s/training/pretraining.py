"""The pretraining loop: phases to their criteria, one replica or several.

`pretrain` runs the phases of a corpus on a causal language model: update after update, measuring
the criterion of a phase now and then, cooling down once it holds, failing loudly when it is out of
reach. It knows nothing of Ray or of any corpus.

Only labelled positions reach the head: most rows teach one or two tokens, and the head is the
widest product of a small model.

B rows, T tokens, K labelled positions, D hidden size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from w2s.corpora.base import NO_TARGET, Criterion, Phase, RowGroup
from w2s.errors import CriterionMissed
from w2s.training.checkpointing import Checkpoints, Moments, Parameters, Resumption, State
from w2s.training.memory import MicroBatch
from w2s.training.optim import PretrainingOptimizer
from w2s.training.parallel import Replicas

REPORT_EVERY = 10
"""Optimizer steps between two points of the curve."""

OnProgress = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One point of a pretraining curve."""

    phase: str
    """Name of the phase."""
    step: int
    """Optimizer steps since the start of the run."""
    metrics: dict[str, float]
    """`loss`, or the measures of the criterion."""


def pretrain(
    model: PreTrainedModel,
    phases: list[Phase],
    *,
    seed: int,
    replicas: Replicas,
    on_progress: OnProgress,
    precision: Literal["fp32", "bf16"] = "fp32",
    micro_batch_size: int | None = None,
    on_shrink: Callable[[int], None] = lambda micro_batch_size: None,
    checkpoints: Checkpoints | None = None,
) -> list[CurvePoint]:
    """Take a model through all phases, in place.

    Args:
        model: causal language model, equal on every replica, on its device.
        phases: what to go through, in order.
        seed: draws the updates of every phase.
        replicas: the data-parallel group; its size changes nothing but float rounding.
        on_progress: called as (step, estimated total, metrics) every few steps, on every replica.
        precision: `bf16` runs forward passes under autocast.
        micro_batch_size: rows of a group that a forward pass reads at most; None: all of this
            replica's share.
        on_shrink: called with the new `micro_batch_size` when the device had no memory for an
            update and it was cut up further; the updates are the same.
        checkpoints: where the state of the run is kept, and where it goes on from; None: nowhere.
            What comes out is the same as without an interruption.

    Returns:
        The curve: losses, and the measures at every check of a criterion.

    Raises:
        CriterionMissed: a phase reached its step cap, or its cool-down lost what was reached.
    """
    device = str(model.device)
    micro = MicroBatch(micro_batch_size, replicas, device, on_shrink)
    run = _Run(model, phases, seed, replicas, on_progress, precision, micro)
    parts = {"weights": Parameters(model), "run": run}
    resumption = Resumption(checkpoints, parts, replicas, device)
    resumption.restore()
    while run.index < len(phases):
        run.phase(resumption)
    return run.curve


class _Run:
    """The state of one pretraining run: the place in its phases, the optimizer and the curve."""

    def __init__(
        self,
        model: PreTrainedModel,
        phases: list[Phase],
        seed: int,
        replicas: Replicas,
        on_progress: OnProgress,
        precision: Literal["fp32", "bf16"],
        micro: MicroBatch,
    ) -> None:
        self.model = model
        self.phases = phases
        self.seed = seed
        self.replicas = replicas
        self.on_progress = on_progress
        self.precision: Literal["fp32", "bf16"] = precision
        self.micro = micro
        self.total = sum(phase.max_steps for phase in phases)
        self.step = 0
        self.curve: list[CurvePoint] = []
        self.index = 0
        self._enter()

    def _enter(self) -> None:
        """Begin the phase of this index."""
        if self.index < len(self.phases):
            phase = self.phases[self.index]
            self.taken = 0
            self.cooldown_start = (
                phase.max_steps - phase.cooldown_steps if phase.criterion is None else None
            )
            self.optimizer = PretrainingOptimizer(self.model, phase.learning_rates)

    def state_dict(self) -> State:
        return {
            "index": self.index,
            "taken": self.taken,
            "cooldown_start": self.cooldown_start,
            "step": self.step,
            "total": self.total,
            "curve": [[point.phase, point.step, point.metrics] for point in self.curve],
            "optimizers": [Moments(each).state_dict() for each in self.optimizer.both],
        }

    def load_state_dict(self, state: State) -> None:
        self.index = state["index"]
        self._enter()
        self.taken, self.cooldown_start = state["taken"], state["cooldown_start"]
        self.step, self.total = state["step"], state["total"]
        self.curve[:] = [CurvePoint(*values) for values in state["curve"]]
        for optimizer, moments in zip(self.optimizer.both, state["optimizers"], strict=True):
            Moments(optimizer).load_state_dict(moments)

    def phase(self, resumption: Resumption) -> None:
        """Run the current phase to its end."""
        phase = self.phases[self.index]
        criterion = phase.criterion
        last_start = phase.max_steps - phase.cooldown_steps
        # Text is made from the seed alone: what was read before is made again and skipped.
        updates = islice(phase.updates(self.seed * 1009 + self.index), self.taken, None)
        self.model.train()
        while (
            self.cooldown_start is None or self.taken < self.cooldown_start + phase.cooldown_steps
        ):
            factor = _schedule(phase, self.taken, self.cooldown_start)
            loss = self._update(next(updates), phase.early_exit_weight, factor)
            self.taken += 1
            self.step += 1
            if self.taken % REPORT_EVERY == 0:
                self._record(phase, {"loss": float(loss)})
            if criterion is not None and self.cooldown_start is None:
                if self.taken % criterion.check_every == 0:
                    measures = self._measure(phase, criterion)
                    if _holds(measures, criterion.thresholds):
                        self.cooldown_start = self.taken
                if self.cooldown_start is None and self.taken >= last_start:
                    raise CriterionMissed(
                        _missed(phase, self._measure(phase, criterion), criterion.thresholds)
                    )
            resumption.save_if_due()
        if criterion is not None:
            final = criterion.final_thresholds or criterion.thresholds
            measures = self._measure(phase, criterion)
            if not _holds(measures, final):
                raise CriterionMissed(_missed(phase, measures, final))
        self.total -= phase.max_steps - self.taken
        self.model.eval()
        self.index += 1
        self._enter()

    def _update(self, groups: list[RowGroup], early_exit_weight: float, factor: float) -> Tensor:
        """One optimizer step over the groups of an update; returns the loss over replicas."""
        num_rows = max(len(group.input_ids_BT) for group in groups)
        loss = None
        while loss is None:
            loss = self.micro.attempt(partial(self._learn, groups, early_exit_weight), num_rows)
        self.replicas.sum_gradients(self.model.parameters())
        self.optimizer.step(factor)
        return loss if self.replicas.size == 1 else self.replicas.sum(loss)

    def _learn(self, groups: list[RowGroup], early_exit_weight: float) -> Tensor:
        """Gradients of this replica's rows of all groups, added up; returns their loss."""
        self.model.zero_grad(set_to_none=True)

        def loss_of(group: RowGroup, rows: slice) -> Tensor:
            return group_loss(
                self.model,
                group,
                rows,
                early_exit_weight=early_exit_weight,
                precision=self.precision,
            )

        own = [(group, self.replicas.slice(len(group.input_ids_BT))) for group in groups]
        if self.micro.size is None:
            loss = torch.stack([loss_of(group, rows) for group, rows in own]).sum()
            loss.backward()
            return loss.detach()
        total = torch.zeros((), device=self.model.device)
        for group, rows in own:
            for start in range(rows.start, rows.stop, self.micro.size):
                stop = min(start + self.micro.size, rows.stop)
                loss = loss_of(group, slice(start, stop))
                loss.backward()
                total += loss.detach()
        return total

    def _measure(self, phase: Phase, criterion: Criterion) -> dict[str, float]:
        """The measures of a criterion, as the first replica finds them."""
        self.model.eval()
        with torch.no_grad():
            measures = criterion.evaluate(self.model)
        self.model.train()
        if self.replicas.size > 1:
            own = list(measures.values()) if self.replicas.rank == 0 else [0.0] * len(measures)
            shared = self.replicas.sum(
                torch.tensor(own, dtype=torch.float64, device=self.model.device)
            )
            measures = dict(zip(measures, shared.tolist(), strict=True))
        self._record(phase, measures)
        return measures

    def _record(self, phase: Phase, metrics: dict[str, float]) -> None:
        self.curve.append(CurvePoint(phase=phase.name, step=self.step, metrics=metrics))
        self.on_progress(self.step, self.total, metrics)


def group_loss(
    model: PreTrainedModel,
    group: RowGroup,
    rows: slice,
    *,
    early_exit_weight: float = 0.0,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Tensor:
    """What some rows add to a group's weighted mean cross-entropy; all rows add up to the loss."""
    device = model.device
    count = max(1, int((group.targets_BT != NO_TARGET).sum()))
    input_ids_BT = group.input_ids_BT[rows].to(device)
    targets_BT = group.targets_BT[rows].to(device)
    labelled_BT = targets_BT != NO_TARGET
    head = model.get_submodule("lm_head")
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        hidden_BTD, penultimate_BTD = hidden_states(model, input_ids_BT)
        logits_KV = head(hidden_BTD[labelled_BT])
        loss = F.cross_entropy(logits_KV.float(), targets_BT[labelled_BT], reduction="sum") / count
        if early_exit_weight and group.early_exit_BT is not None:
            early_BT = group.early_exit_BT[rows].to(device)
            early_count = max(1, int(group.early_exit_BT.sum()))
            norm = model.base_model.get_submodule("norm")
            early_KV = head(norm(penultimate_BTD[early_BT]))
            early = F.cross_entropy(early_KV.float(), targets_BT[early_BT], reduction="sum")
            loss = loss + early_exit_weight * early / early_count
    return group.weight * loss


def hidden_states(model: PreTrainedModel, input_ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Final hidden states (normed) and those that enter the last layer, each [B, T, D]."""
    kept: list[Tensor] = []
    body: nn.Module = model.base_model
    *_, last_layer = body.get_submodule("layers").children()
    handle = last_layer.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    try:
        hidden_BTD = body(input_ids=input_ids_BT, use_cache=False).last_hidden_state
    finally:
        handle.remove()
    return hidden_BTD, kept[0]


def _schedule(phase: Phase, taken: int, cooldown_start: int | None) -> float:
    """Factor of the peak learning rates for the step after `taken` steps."""
    factor = min(1.0, (taken + 1) / phase.warmup_steps) if phase.warmup_steps else 1.0
    if cooldown_start is not None and taken >= cooldown_start and phase.cooldown_steps:
        gone = (taken - cooldown_start + 1) / phase.cooldown_steps
        factor *= 1 - (1 - phase.final_fraction) * gone
    return factor


def _holds(measures: dict[str, float], thresholds: Mapping[str, float]) -> bool:
    return all(measures[name] >= value for name, value in thresholds.items())


def _missed(phase: Phase, measures: dict[str, float], thresholds: Mapping[str, float]) -> str:
    found = ", ".join(
        f"{name} {measures[name]:.3f} (needs {value})" for name, value in thresholds.items()
    )
    return (
        f"phase {phase.name!r} missed its criterion within {phase.max_steps} steps: {found}; "
        "raise the step cap of the corpus or make the rung larger"
    )
