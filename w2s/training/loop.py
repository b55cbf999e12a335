"""Finetuning a classifier and letting it predict: supervisors, students and ceilings alike.

`finetune` goes through the updates of `plan_updates`; `predict` through those of `plan_inference`.
Both know nothing of Ray: `Replicas` says which rows are this process's. An update may be cut into
micro-batches and over replicas: each part's graph is freed before the next is built, parts count by
their share of the rows, and a loss that needs the whole update gets its logits from a first pass
without gradient. So 1 x 32, 4 x 8 and 2 workers x 16 train alike.

What is trained is what requires a gradient: everything, or adapters and the head.

N rows of an update or of a data set, B rows of a part, C classes, T tokens.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from w2s.losses.base import Batch, Loss
from w2s.models.classifier import Classifier
from w2s.training.batching import (
    Cut,
    TokenRows,
    collate,
    cut_update,
    plan_inference,
    plan_updates,
    to_device,
)
from w2s.training.checkpointing import (
    Checkpoints,
    Moments,
    Parameters,
    Position,
    Resumption,
    State,
    Stateful,
)
from w2s.training.config import TrainConfig, learning_rate_factor
from w2s.training.members import MemberWeights, Objective
from w2s.training.memory import MicroBatch, release_memory
from w2s.training.offsets import Plus, as_offsets
from w2s.training.parallel import Replicas
from w2s.training.sharding import Precision, clip_gradients, place

ProgressReport = Callable[[int, int, dict[str, float]], None]

ALONE = Replicas()
CURVE_POINTS = 100
"""Points of a training curve at most; each is the mean over the steps since the one before."""
INFERENCE_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Tokens of an inference batch by device type. On CPU a batch should stay in the cache."""


def finetune(
    classifier: Classifier,
    rows: TokenRows,
    targets_NC: NDArray[np.floating],
    loss: Loss,
    config: TrainConfig,
    *,
    seed: int,
    weights_N: NDArray[np.floating] | None = None,
    members: MemberWeights | None = None,
    offsets_NC: NDArray[np.floating] | None = None,
    replicas: Replicas = ALONE,
    device: str = "cpu",
    precision: Precision = "fp32",
    micro_batch_size: int | None = None,
    micro_batch_tokens: int | None = None,
    on_progress: ProgressReport = lambda step, total, metrics: None,
    on_checkpoint: Callable[[int, int], None] = lambda step, num_steps: None,
    on_shrink: Callable[[int], None] = lambda micro_batch_size: None,
    checkpoints: Checkpoints | None = None,
    beside: Mapping[str, Stateful] = MappingProxyType({}),
) -> list[dict[str, float]]:
    """Train a classifier in place on class probabilities.

    Every replica calls this with the same arguments and its own copy of the same classifier.

    Args:
        classifier: moved to the device, trained in place.
        rows: N texts.
        targets_NC: class probabilities to learn from, in the order of the rows; [N, M, C] of M
            members.
        loss: training objective.
        config: optimizer, schedule, epochs.
        seed: of the order of the rows.
        weights_N: sample weights, 0 or more; scaled to a mean of 1. None: all the same.
        members: weights of the members, moved where they are learned; None: one label a row.
        offsets_NC: logits that are added to the classifier's while it learns; None: none. Not with
            a loss that needs the whole update.
        replicas: those that train this classifier together.
        device: of this replica.
        precision: of the forward pass; weights, gradients and losses are float32.
        micro_batch_size: rows a forward pass at most; None: all of this replica's share.
        micro_batch_tokens: tokens a forward pass at most, padding included; None: no limit.
        on_progress: called as (step, number of steps, metrics) with each point of the curve.
        on_checkpoint: called as (steps taken, number of steps) after the steps at which the config
            wants a checkpoint; the classifier may be used, and must be left as it was.
        on_shrink: called with the new `micro_batch_size` when the device had no memory for an
            update and it was cut up further; the updates are the same.
        checkpoints: where the state of the training is kept, and where it goes on from; None:
            nowhere. What comes out is the same as without an interruption.
        beside: what else changes while it trains and is kept with it, by name.

    Returns:
        The curve: `step` (steps taken), `loss`, `learning_rate`, and the metrics of the loss, each
        the mean over the steps since the point before. Equal on every replica.

    Raises:
        ValueError: no rows, or targets of another shape.
        FloatingPointError: the loss became infinite or NaN.
        torch.OutOfMemoryError: the device has no memory for a single row.
        UnusableCheckpoint: what was kept is not of this training.
    """
    if len(rows) == 0 or len(targets_NC) != len(rows):
        raise ValueError(
            f"need one target per row and at least one row; "
            f"found {len(rows)} rows and {len(targets_NC)} targets"
        )
    if config.batch_size < replicas.size:
        raise ValueError(
            f"batch_size {config.batch_size} leaves some of {replicas.size} workers without rows; "
            f"use at most {config.batch_size} workers"
        )
    # Dropout is off, so the model stays in evaluation mode while it trains.
    autocast = place(classifier, replicas=replicas, device=device, precision=precision)
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(classifier, config)
    peaks = [group["lr"] for group in optimizer.param_groups]
    targets = torch.as_tensor(np.asarray(targets_NC), dtype=torch.float32)
    weights = scaled_weights(weights_N, len(rows))
    objective = Objective(loss, members)
    offsets = as_offsets(offsets_NC, loss)
    row_tokens = rows.row_lengths * rows.texts_per_row
    updates = plan_updates(
        rows.row_lengths, batch_size=config.batch_size, epochs=config.epochs, seed=seed
    )
    curve = _Curve(len(updates), replicas, device, on_progress)
    checkpoint_at = checkpoint_steps(len(updates), config.num_checkpoints)
    micro = MicroBatch(micro_batch_size, replicas, device, on_shrink)
    done = Position()
    parts: dict[str, Stateful] = {
        "position": done,
        "weights": Parameters(classifier),
        "optimizer": Moments(optimizer),
        "curve": curve,
        **({} if members is None else {"members": members}),
        **beside,
    }
    resumption = Resumption(checkpoints, parts, replicas, device)
    resumption.restore()

    def forward(cuts: list[Cut]) -> Tensor:
        """Logits of the cuts, without gradient."""
        with torch.no_grad(), autocast:
            return torch.cat([classifier(*collate(rows, cut.rows_B, device)) for cut in cuts])

    def learn(cuts: list[Cut], whole: _Whole | None, progress: float) -> list[_Pass]:
        """Gradients of all cuts, added up."""
        optimizer.zero_grad(set_to_none=True)
        objective.restart()
        passes = []
        for cut in cuts:
            part = _part(rows, targets, cut.rows_B, device, whole)
            rows_B = torch.from_numpy(cut.rows_B)
            # Weighted sums over the parts of the update, divided by all its rows, are its mean.
            shares_B = to_device(weights[rows_B], device) * cut.weight
            with autocast:
                model = classifier if offsets is None else Plus(classifier, offsets[rows_B])
                output = objective(model, part, rows_B, shares_B, progress)
            total = (output.losses_B * shares_B).sum()
            total.backward()
            passes.append(_Pass(total.detach(), output.metrics, len(cut.rows_B) * cut.weight))
        return passes

    for step in range(done.steps, len(updates)):
        update = updates[step]
        factor = learning_rate_factor(config.schedule, config.warmup_fraction, step, len(updates))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor

        passes = None
        while passes is None:
            cuts = cut_update(
                update, row_tokens, replicas, max_rows=micro.size, max_tokens=micro_batch_tokens
            )
            whole = None
            if loss.needs_whole_batch and (replicas.size > 1 or len(cuts) > 1):
                local_BC = micro.attempt(partial(forward, cuts), len(update))
                if local_BC is None:
                    continue
                num_own = sum(len(cut.rows_B) for cut in cuts if cut.weight)
                logits_NC = replicas.gather_rows(local_BC[:num_own], len(update))
                whole = _Whole(to_device(targets[update], device), logits_NC)
            progress = step / len(updates)
            passes = micro.attempt(partial(learn, cuts, whole, progress), len(update))
        for each in passes:
            curve.add(each)
        replicas.sum_gradients(parameters)
        if config.max_grad_norm is not None:
            clip_gradients(parameters, config.max_grad_norm, replicas)
        optimizer.step()
        objective.step(step * config.epochs // len(updates), replicas)
        done.steps = step + 1
        curve.end_step(step + 1, config.learning_rate * factor)
        if step + 1 in checkpoint_at:
            on_checkpoint(step + 1, len(updates))
        resumption.save_if_due()
    return curve.points


def checkpoint_steps(num_steps: int, num_checkpoints: int) -> frozenset[int]:
    """Numbers of steps taken at which a checkpoint is due: evenly, the last one included."""
    return frozenset(
        math.ceil(num_steps * index / num_checkpoints) for index in range(1, num_checkpoints + 1)
    )


def predict(
    classifier: Classifier,
    rows: TokenRows,
    *,
    replicas: Replicas = ALONE,
    device: str = "cpu",
    precision: Precision = "fp32",
    micro_batch_size: int | None = None,
    on_progress: ProgressReport = lambda step, total, metrics: None,
) -> NDArray[np.float32]:
    """Class log-probabilities of each row.

    Args:
        classifier: moved to the device.
        rows: N texts.
        replicas: share the rows; every replica gets all results.
        device: of this replica.
        precision: of the forward pass.
        micro_batch_size: rows a forward pass at most; None: as many as a batch of
            `INFERENCE_TOKENS` holds.
        on_progress: called as (rows done, rows, {}) of this replica.

    Returns:
        [N, C] natural log-probabilities in the order of the rows.
    """
    autocast = place(classifier, replicas=replicas, device=device, precision=precision)

    def logprobs_of(input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        with autocast:
            return classifier(input_ids_BT, mask_BT).log_softmax(1)

    return over_rows(
        logprobs_of,
        rows,
        (classifier.num_classes,),
        replicas=replicas,
        device=device,
        micro_batch_size=micro_batch_size,
        on_progress=on_progress,
    )


def over_rows(
    function: Callable[[Tensor, Tensor], Tensor],
    rows: TokenRows,
    shape: tuple[int, ...],
    *,
    replicas: Replicas,
    device: str,
    micro_batch_size: int | None,
    on_progress: ProgressReport,
) -> NDArray[np.float32]:
    """What a function makes of each row, without gradient, in batches of rows of similar length.

    Args:
        function: (input_ids_BT, attention_mask_BT) to [rows, *shape].
        rows: N rows.
        shape: of the result of a row.
        replicas: share the rows; every replica gets all results.
        device: of this replica.
        micro_batch_size: rows of a batch at most; None: as many as `INFERENCE_TOKENS` allows.
        on_progress: called as (rows done, rows, {}) of this replica.

    Returns:
        [N, *shape] in the order of the rows.
    """
    max_tokens = INFERENCE_TOKENS.get(torch.device(device).type, INFERENCE_TOKENS["cuda"])
    batches = plan_inference(
        rows.row_lengths * rows.texts_per_row, max_tokens=max_tokens, max_rows=micro_batch_size
    )
    results = torch.zeros(len(rows), *shape, device=device)
    own = batches[replicas.rank :: replicas.size]
    num_own = sum(len(batch) for batch in own)
    todo = own[::-1]
    done = 0
    # Tensors that are gathered for a pass are used again in training, which inference mode forbids.
    with torch.no_grad() if replicas.sharded else torch.inference_mode():
        while todo:
            indices = todo.pop()
            try:
                input_ids_BT, mask_BT = collate(rows, indices, device)
                found = function(input_ids_BT, mask_BT).float()
            except torch.OutOfMemoryError:
                if len(indices) == 1 or replicas.sharded:
                    raise
                found = None
            if found is None:
                release_memory(device)
                todo += list(np.array_split(indices, 2))[::-1]
                continue
            results[to_device(torch.from_numpy(indices), device)] = found
            done += len(indices)
            on_progress(done, num_own, {})
        if replicas.sharded and len(own) < math.ceil(len(batches) / replicas.size):
            function(*collate(rows, batches[0][:1], device))  # the others make a pass
    return replicas.sum(results).cpu().numpy()


def build_optimizer(classifier: Classifier, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what requires a gradient: the backbone's matrices, all else of it, the head.

    Only matrices decay: no embeddings, norms or biases.
    """
    matrices, others = decay_groups(classifier.backbone)
    head_rate = config.head_learning_rate or config.learning_rate
    groups = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
        {"params": [classifier.head.weight], "lr": head_rate},
    ]
    if classifier.head.bias is not None:
        groups.append({"params": [classifier.head.bias], "lr": head_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What of a model is trained: matrices, and all that has no weight decay."""
    undecayed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in undecayed
            (matrices if decays else others).append(parameter)
    return matrices, others


class _Whole(NamedTuple):
    """What a loss that needs the whole update gets beside its part."""

    targets_NC: Tensor
    """Targets of all rows; [N, M, C] of M members."""
    logits_NC: Tensor
    """Logits of all rows, without gradient."""


class _Pass(NamedTuple):
    """What a part of an update adds to the curve."""

    loss: Tensor
    """Its summand of the loss."""
    metrics: Mapping[str, Tensor | float]
    """Metrics of the loss on its rows."""
    share: float
    """Share of its rows in the update."""


class _Curve:
    """Adds up losses and metrics, and reads tensors once a point: reading waits for the device."""

    def __init__(
        self, num_steps: int, replicas: Replicas, device: str, on_progress: ProgressReport
    ) -> None:
        self.points: list[dict[str, float]] = []
        self._num_steps = num_steps
        self._interval = math.ceil(num_steps / CURVE_POINTS)
        self._replicas = replicas
        self._device = device
        self._on_progress = on_progress
        self._sums: dict[str, Tensor | float] = {}
        self._steps = 0

    def add(self, each: _Pass) -> None:
        """Count a part of an update."""
        self._sums["loss"] = self._sums.get("loss", 0.0) + each.loss
        for name, value in each.metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * each.share

    def state_dict(self) -> State:
        return {"points": self.points, "sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state: State) -> None:
        self.points[:] = state["points"]
        self._steps = state["steps"]
        self._sums = {
            name: value.to(self._device) if isinstance(value, Tensor) else value
            for name, value in state["sums"].items()
        }

    def end_step(self, step: int, learning_rate: float) -> None:
        """Close an update; every so many steps, write a point."""
        self._steps += 1
        if step % self._interval and step != self._num_steps:
            return
        values = torch.stack(
            [torch.as_tensor(value, device=self._device).float() for value in self._sums.values()]
        )
        means = (self._replicas.sum(values) / self._steps).tolist()
        point = dict(zip(self._sums, means, strict=True))
        if not math.isfinite(point["loss"]):
            raise FloatingPointError(
                f"the loss is {point['loss']} by step {step} of {self._num_steps} at a learning "
                f"rate of {learning_rate:.3g}; lower `learning_rate` or set `max_grad_norm`"
            )
        self._on_progress(step, self._num_steps, {**point, "learning_rate": learning_rate})
        self.points.append({"step": float(step), "learning_rate": learning_rate, **point})
        self._sums = dict.fromkeys(self._sums, 0.0)
        self._steps = 0


def scaled_weights(weights_N: NDArray[np.floating] | None, num_rows: int) -> Tensor:
    """Sample weights [N] with a mean of 1."""
    if weights_N is None:
        return torch.ones(num_rows)
    weights = torch.as_tensor(np.asarray(weights_N), dtype=torch.float32)
    if len(weights) != num_rows or bool((weights < 0).any()) or not float(weights.sum()) > 0:
        raise ValueError("sample weights are one per row, 0 or more, and not all 0")
    return weights / weights.mean()


def _part(
    rows: TokenRows,
    targets: Tensor,
    indices: NDArray[np.int64],
    device: str,
    whole: _Whole | None,
) -> Batch:
    input_ids_BT, mask_BT = collate(rows, indices, device)
    targets_BC = to_device(targets[torch.from_numpy(indices)], device)
    part = Batch(input_ids_BT, mask_BT, targets_BC)
    if whole is None:
        return part
    return replace(part, whole_targets_NC=whole.targets_NC, whole_logits_NC=whole.logits_NC)
