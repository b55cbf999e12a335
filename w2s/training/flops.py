"""How much arithmetic a training takes: measured on one example, scaled by tokens.

T tokens, K texts of a row.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from w2s.models.classifier import Classifier
from w2s.training.batching import TokenRows, plan_updates
from w2s.training.config import TrainConfig


def training_flops(
    classifier: Classifier, rows: TokenRows, config: TrainConfig, *, seed: int, device: str
) -> float:
    """Floating-point operations of the forward and backward passes of a training.

    One example of the mean padded length is counted, product by product, and scaled by tokens with
    padding. How an update is cut up does not enter, nor does a loss that needs more than one pass.

    Args:
        classifier: as it is trained, on the device (`sharding.place`), not yet accelerated; its
            gradients are dropped.
        rows: what it learns from.
        config: of the training.
        seed: of the training.
        device: of the classifier.
    """
    updates = plan_updates(
        rows.row_lengths, batch_size=config.batch_size, epochs=config.epochs, seed=seed
    )
    num_tokens = sum(int(rows.row_lengths[update].max()) * len(update) for update in updates)
    mean_length = round(num_tokens / sum(len(update) for update in updates))
    ids_KT = torch.full(
        (rows.texts_per_row, mean_length), rows.pad_id, dtype=torch.long, device=device
    )
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with counter:
        classifier(ids_KT, torch.ones_like(ids_KT)).sum().backward()
    classifier.zero_grad(set_to_none=True)
    return counter.get_total_flops() / mean_length * num_tokens


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


_CPU_ATTENTION: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""The counter knows the attention kernels of GPUs alone."""
