"""Every loss, and a model without text, so that a test can name the logits a loss sees."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from w2s.losses.base import Batch, Loss
from w2s.losses.confidence_window import ConfidenceWindow
from w2s.losses.entropy import Entropy
from w2s.losses.evidential import Evidential
from w2s.losses.xent import Xent
from w2s.spec import available, parse
from w2s.types import LossOutput

KINDS = available(Loss)
LOSSES: list[Loss] = [
    *(parse(Loss, kind) for kind in KINDS),
    Xent(hard=True),
    Xent(label_smoothing=0.1),
    ConfidenceWindow(radius="weak_median"),
    Entropy(form="mixture_detached"),
    Entropy(form="penalty"),
    Entropy(form="squared"),
    Evidential(evidence="relu", confidence_weight=0.2),
    Evidential(confidence_weight=0.5, confidence_mix="losses"),
]
"""Every loss at its defaults, and those of its variants that take another path."""


def name(loss: Loss) -> str:
    """Kind and changed fields, as the name of a case."""
    changed = [field for field in type(loss).model_fields if field in loss.model_fields_set]
    settings = [f"{field}={getattr(loss, field)}" for field in changed if field != "kind"]
    return " ".join([loss.kind, *settings])


for_every_loss = pytest.mark.parametrize("loss", LOSSES, ids=name)


class Constant(nn.Module):
    """Gives the same logits whatever it reads; they are its parameter."""

    def __init__(self, logits_BC: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_BC.clone())

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        return self.logits


def apply(
    loss: Loss, logits_BC: Tensor, targets_BC: Tensor, progress: float = 1.0
) -> tuple[LossOutput, Tensor]:
    """What a loss gives for these logits (detached), and the gradient [B, C] of the sum."""
    model = Constant(logits_BC)
    ids_BT = torch.zeros(len(logits_BC), 1, dtype=torch.long)
    output = loss(model, Batch(ids_BT, ids_BT + 1, targets_BC), progress)
    output.losses_B.sum().backward()
    assert model.logits.grad is not None
    return replace(output, losses_B=output.losses_B.detach()), model.logits.grad


def random_case(rows: int = 40, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and soft labels [rows, classes]."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator) * 2
    return logits, torch.randn(rows, classes, generator=generator).mul(2).softmax(1)


def two_class(p1: list[float]) -> Tensor:
    """Probabilities [rows, 2] from those of class 1."""
    p = torch.tensor(p1)
    return torch.stack([1 - p, p], 1)
