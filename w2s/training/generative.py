"""Language-model finetuning of a decoder on texts, one replica or several.

B texts, T tokens, V words of the vocabulary, K positions that predict a token.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from w2s.training.batching import TokenRows, collate, cut_update, plan_updates
from w2s.training.config import GenerativeConfig, learning_rate_factor
from w2s.training.loop import CURVE_POINTS, decay_groups
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
    for step, update in enumerate(updates):
        factor = learning_rate_factor("cosine", config.warmup_fraction, step, len(updates))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        num_targets = max(1, int((texts.lengths[update] - 1).sum()))
        cuts = cut_update(
            update,
            texts.lengths,
            replicas,
            max_rows=micro_batch_size,
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


def next_token_loss(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Cross-entropy, in nats, summed over all tokens of the texts but the first of each."""
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    predicted_BT = mask_BT[:, 1:].bool()
    logits_KV = logits_BTV[:, :-1][predicted_BT]
    targets_K = ids_BT[:, 1:][predicted_BT]
    return functional.cross_entropy(logits_KV.float(), targets_K, reduction="sum")
