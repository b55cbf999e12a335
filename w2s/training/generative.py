"""Language-model finetuning of a decoder on texts, one replica or several.

B texts, T tokens, V words of the vocabulary, K positions that predict a token.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from w2s.training.batching import TokenRows, collate, cut_update, plan_updates
from w2s.training.checkpointing import Checkpoints, Moments, Parameters, Position, Resumption
from w2s.training.config import GenerativeConfig, learning_rate_factor
from w2s.training.loop import CURVE_POINTS, decay_groups
from w2s.training.memory import MicroBatch
from w2s.training.parallel import Replicas
from w2s.training.sharding import Precision, clip_gradients, place

MAX_GRAD_NORM = 1.0


def finetune_language_model(
    model: PreTrainedModel,
    texts: TokenRows,
    config: GenerativeConfig,
    *,
    seed: int,
    replicas: Replicas,
    device: str,
    precision: Precision,
    micro_batch_size: int | None,
    micro_batch_tokens: int | None = None,
    on_progress: Callable[[int, int, dict[str, float]], None],
    on_shrink: Callable[[int], None] = lambda micro_batch_size: None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train a causal language model in place to predict each next token of each text.

    The loss of an update is the mean over all its predicted tokens, however it is cut up. Dropout
    is off.

    Args:
        model: with its language-model head; equal on every replica.
        texts: N texts, one a row.
        config: optimizer, schedule, epochs.
        seed: of the order of the texts.
        replicas: those that train this model together.
        device: of this replica.
        precision: of the forward pass; weights, gradients and losses are float32.
        micro_batch_size: texts a forward pass at most; None: all of this replica's share.
        micro_batch_tokens: tokens a forward pass at most, padding included; None: no limit.
        on_progress: called as (step, number of steps, metrics) about a hundred times.
        on_shrink: called with the new `micro_batch_size` when the device had no memory for an
            update and it was cut up further; the updates are the same.
        checkpoints: where the state of the training is kept, and where it goes on from; None:
            nowhere. What comes out is the same as without an interruption.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    model.requires_grad_(True)
    autocast = place(model, replicas=replicas, device=device, precision=precision)
    parameters = list(model.parameters())
    matrices, others = decay_groups(model)
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    updates = plan_updates(
        texts.lengths, batch_size=config.batch_size, epochs=config.epochs, seed=seed
    )
    interval = math.ceil(len(updates) / CURVE_POINTS)
    micro = MicroBatch(micro_batch_size, replicas, device, on_shrink)
    done = Position()
    parts = {"position": done, "weights": Parameters(model), "optimizer": Moments(optimizer)}
    resumption = Resumption(checkpoints, parts, replicas, device)
    resumption.restore()

    def learn(update: NDArray[np.int64]) -> Tensor:
        """Gradients of an update, added up; returns their loss."""
        num_targets = max(1, int((texts.lengths[update] - 1).sum()))
        cuts = cut_update(
            update,
            texts.lengths,
            replicas,
            max_rows=micro.size,
            max_tokens=micro_batch_tokens,
        )
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=device)
        for cut in cuts:
            ids_BT, mask_BT = collate(texts, cut.rows_B, device)
            with autocast:
                summed = next_token_loss(model, ids_BT, mask_BT)
            share = (summed if cut.weight else 0 * summed) / num_targets
            share.backward()
            loss += share.detach()
        return loss

    for step in range(done.steps, len(updates)):
        factor = learning_rate_factor("cosine", config.warmup_fraction, step, len(updates))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        loss = None
        while loss is None:
            loss = micro.attempt(partial(learn, updates[step]), len(updates[step]))
        replicas.sum_gradients(parameters)
        clip_gradients(parameters, MAX_GRAD_NORM, replicas)
        optimizer.step()
        if (step + 1) % interval == 0 or step + 1 == len(updates):
            value = float(replicas.sum(loss))
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the language-model loss is {value} by step {step + 1} of {len(updates)}; "
                    "lower `learning_rate`"
                )
            on_progress(step + 1, len(updates), {"loss": value})
        done.steps = step + 1
        resumption.save_if_due()


def next_token_loss(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Cross-entropy, in nats, summed over all tokens of the texts but the first of each."""
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    predicted_BT = mask_BT[:, 1:].bool()
    logits_KV = logits_BTV[:, :-1][predicted_BT]
    targets_K = ids_BT[:, 1:][predicted_BT]
    return functional.cross_entropy(logits_KV.float(), targets_K, reduction="sum")
