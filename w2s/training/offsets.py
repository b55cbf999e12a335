"""Learning on top of what others have said: their logits are added to the model's in training.

A classifier that minimises cross-entropy with such offsets learns what they leave to be explained:
the gradient for its logits is softmax(offsets + logits) - target, which where its own logits are 0
is the residual of the others (Friedman 2001, section 4: boosting in function space).

B rows of a part, N rows in all, C classes, T tokens.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from w2s.losses.base import Loss


class Plus(nn.Module):
    """A model whose logits have an offset for each row of one part."""

    def __init__(self, model: nn.Module, offsets_BC: Tensor) -> None:
        """Stand around a model for one part."""
        super().__init__()
        self._model = model
        self._offsets_BC = offsets_BC

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Logits [B, C]."""
        logits_BC = self._model(input_ids_BT, attention_mask_BT)
        return logits_BC + self._offsets_BC.to(logits_BC.device)


def as_offsets(offsets_NC: NDArray[np.floating] | None, loss: Loss) -> Tensor | None:
    """Offsets of all rows as a tensor.

    Raises:
        ValueError: the loss looks at the logits of a whole update, which offsets are not added to.
    """
    if offsets_NC is None:
        return None
    if loss.needs_whole_batch:
        raise ValueError(f"loss {loss.kind!r} does not go with offsets")
    return torch.as_tensor(np.asarray(offsets_NC), dtype=torch.float32)
