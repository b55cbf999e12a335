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
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from w2s.corpora.base import NO_TARGET, Criterion, Phase, RowGroup
from w2s.errors import CriterionMissed
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
) -> list[CurvePoint]:
    """Take a model through all phases, in place.

    Args:
        model: causal language model, equal on every replica, on its device.
        phases: what to go through, in order.
        seed: draws the updates of every phase.
        replicas: the data-parallel group; its size changes nothing but float rounding.
        on_progress: called as (step, estimated total, metrics) every few steps, on every replica.
        precision: `bf16` runs forward passes under autocast.

    Returns:
        The curve: losses, and the measures at every check of a criterion.

    Raises:
        CriterionMissed: a phase reached its step cap, or its cool-down lost what was reached.
    """
    run = _Run(model, replicas, on_progress, precision, sum(phase.max_steps for phase in phases))
    for index, phase in enumerate(phases):
        run.phase(phase, seed=seed * 1009 + index)
    return run.curve


class _Run:
    """The state of one pretraining run: the step count and the curve."""

    def __init__(
        self,
        model: PreTrainedModel,
        replicas: Replicas,
        on_progress: OnProgress,
        precision: Literal["fp32", "bf16"],
        total: int,
    ) -> None:
        self.model = model
        self.replicas = replicas
        self.on_progress = on_progress
        self.precision: Literal["fp32", "bf16"] = precision
        self.total = total
        self.step = 0
        self.curve: list[CurvePoint] = []

    def phase(self, phase: Phase, seed: int) -> None:
        """Run one phase to its end."""
        optimizer = PretrainingOptimizer(self.model, phase.learning_rates)
        updates = phase.updates(seed)
        criterion = phase.criterion
        last_start = phase.max_steps - phase.cooldown_steps
        cooldown_start = last_start if criterion is None else None
        start, taken = self.step, 0
        self.model.train()
        while cooldown_start is None or taken < cooldown_start + phase.cooldown_steps:
            factor = _schedule(phase, taken, cooldown_start)
            loss = self._update(next(updates), optimizer, phase.early_exit_weight, factor)
            taken += 1
            self.step = start + taken
            if taken % REPORT_EVERY == 0:
                self._record(phase, {"loss": float(loss)})
            if criterion is not None and cooldown_start is None:
                if taken % criterion.check_every == 0:
                    measures = self._measure(phase, criterion)
                    if _holds(measures, criterion.thresholds):
                        cooldown_start = taken
                if cooldown_start is None and taken >= last_start:
                    raise CriterionMissed(
                        _missed(phase, self._measure(phase, criterion), criterion.thresholds)
                    )
        if criterion is not None:
            final = criterion.final_thresholds or criterion.thresholds
            measures = self._measure(phase, criterion)
            if not _holds(measures, final):
                raise CriterionMissed(_missed(phase, measures, final))
        self.total -= phase.max_steps - taken
        self.model.eval()

    def _update(
        self,
        groups: list[RowGroup],
        optimizer: PretrainingOptimizer,
        early_exit_weight: float,
        factor: float,
    ) -> Tensor:
        """One optimizer step over the groups of an update; returns the loss over replicas."""
        losses = [
            group_loss(
                self.model,
                group,
                self.replicas,
                early_exit_weight=early_exit_weight,
                precision=self.precision,
            )
            for group in groups
        ]
        loss = torch.stack(losses).sum()
        loss.backward()
        self.replicas.sum_gradients(self.model.parameters())
        optimizer.step(factor)
        return loss.detach() if self.replicas.size == 1 else self.replicas.sum(loss.detach())

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
    replicas: Replicas,
    *,
    early_exit_weight: float = 0.0,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Tensor:
    """A replica's share of a group's weighted mean cross-entropy; the shares add up to the loss."""
    device = model.device
    rows = replicas.slice(len(group.input_ids_BT))
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
