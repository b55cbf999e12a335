"""Hidden states of a frozen backbone at the token that a head would read.

B rows, T tokens, N rows in all, K texts of a row, D hidden size.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from w2s.errors import UserError
from w2s.models.classifier import Classifier, copy_backbone, fresh_head, is_causal
from w2s.models.read_token import block_list
from w2s.training.batching import TokenRows
from w2s.training.loop import ProgressReport, over_rows
from w2s.training.parallel import Replicas
from w2s.training.sharding import autocast_to


def hidden_features(
    backbone: PreTrainedModel,
    rows: TokenRows,
    *,
    layer: int,
    replicas: Replicas,
    device: str,
    precision: Literal["fp32", "bf16"],
    micro_batch_size: int | None,
    on_progress: ProgressReport,
) -> NDArray[np.float32]:
    """Feature vectors of rows.

    Args:
        backbone: on the device; it stays as it is.
        rows: N rows.
        layer: -1 the last hidden state, 0 the embeddings, k the output of the k-th block.
        replicas: share the rows; every replica gets all results.
        device: of this replica.
        precision: of the forward pass.
        micro_batch_size: rows a forward pass at most.
        on_progress: called as (rows done, rows, {}) of this replica.

    Returns:
        [N, D], or [N, K, D] for rows of K texts.

    Raises:
        UserError: the backbone has fewer blocks than `layer`.
    """
    own = copy_backbone(backbone, share=True).eval()
    if layer == -1:
        # The head is not used; a classifier knows how to read.
        head = fresh_head(own, 1, head_init="zero", seed=0, options=False)
        read = Classifier(own, head).read
    else:
        read = LayerReader(own, layer)
    with torch.inference_mode():
        ids = rows.ids[:1].long().to(device).unsqueeze(0)
        width = read(ids, torch.ones_like(ids)).shape[1]
    num_texts = rows.texts_per_row
    shape = (width,) if num_texts == 1 else (num_texts, width)
    autocast = autocast_to(device, precision)

    def features_of(input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        with autocast:
            return read(input_ids_BT, mask_BT).view(-1, *shape)

    return over_rows(
        features_of,
        rows,
        shape,
        replicas=replicas,
        device=device,
        micro_batch_size=micro_batch_size,
        on_progress=on_progress,
    )


class LayerReader:
    """Reads the output of one block, and computes none after it."""

    def __init__(self, backbone: PreTrainedModel, layer: int) -> None:
        """Take over a backbone and cut off what is not needed.

        Raises:
            UserError: the backbone has fewer blocks than `layer`.
        """
        blocks = block_list(backbone)
        if layer > len(blocks):
            raise UserError(
                f"layer is {layer}, but a {backbone.config.model_type} model of {len(blocks)} "
                f"blocks has layers 0 to {len(blocks)}, and -1 for the last as a head reads it"
            )
        self._backbone = backbone
        self._causal = is_causal(backbone.config)
        self._hidden_BTD: Tensor | None = None
        if layer == 0:
            blocks[0].register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            blocks[layer - 1].register_forward_hook(self._after)
        del blocks[max(1, layer) :]

    def __call__(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Hidden state of the last real token of a decoder, of the first of an encoder, [B, D]."""
        if self._causal:
            self._backbone(input_ids=input_ids_BT)
        else:
            self._backbone(input_ids=input_ids_BT, attention_mask=attention_mask_BT)
        hidden_BTD, self._hidden_BTD = self._hidden_BTD, None
        assert hidden_BTD is not None
        if not self._causal:
            return hidden_BTD[:, 0]
        rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        return hidden_BTD[rows_B, attention_mask_BT.sum(1) - 1]

    def _before(
        self, block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> None:
        self._hidden_BTD = args[0] if args else kwargs["hidden_states"]

    def _after(self, block: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        self._hidden_BTD = output[0] if isinstance(output, tuple) else output
