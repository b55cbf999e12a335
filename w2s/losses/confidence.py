"""Auxiliary confidence loss (Burns et al. 2023, section 4.3.2 and appendix A.4).

    L = CE(f(x), (1 - w) f_w(x) + w f_t(x))

f is the student, f_w the weak label, f_t the student's own prediction hardened with a threshold t,
w a weight that rises linearly from 0 over the first part of training. Nothing is learned through
f_t.

The threshold follows the class prior: in each update it is set so that the share of rows hardened
to each class is the class's mean weak label (one half for balanced tasks, the paper's case). With
two classes that is the threshold on P(class 1) between the k-th and the next largest, k = the prior
times the rows. With more, the classes' log-probabilities get additive offsets, found by setting one
class's threshold after the other until the shares fit; with two classes this is the same rule.

The weight is continuous; the published code's is not (see `confidence_openai`).

B examples of the part, N examples of the whole update, C classes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses._schedule import ramp
from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput

MAX_SWEEPS = 20
"""Passes over the classes in the search for offsets of three classes and more."""


def class_counts(weak_NC: Tensor) -> Tensor:
    """Rows to harden to each class [C]: N times the mean weak label, rounded to add up to N."""
    num_rows = len(weak_NC)
    # The small number keeps what should be whole (.1 + .2 + .7) from being rounded down.
    expected_C = weak_NC.double().mean(0) * num_rows + 1e-4
    counts_C = expected_C.floor().long()
    rank_C = (expected_C - counts_C).argsort(descending=True, stable=True).argsort()
    return counts_C + (rank_C < num_rows - counts_C.sum()).long()


def prior_offsets(logits_NC: Tensor, weak_NC: Tensor) -> Tensor:
    """Offsets o such that argmax_c(logits_c + o_c) follows the class prior of the weak labels.

    Args:
        logits_NC: the student's, of the whole update, detached.
        weak_NC: weak labels of the same rows.

    Returns:
        [C]; o_0 is 0, and with two classes -o_1 is the threshold on the log-odds of class 1. The
        shares fit to the row, but for rows with equal logits, which no threshold can part (and for
        three classes and more, where the search may end a few rows off).
    """
    counts_C = class_counts(weak_NC)
    num_classes = len(counts_C)
    scores_NC = logits_NC.float()
    offsets_C = torch.zeros(num_classes, device=scores_NC.device)
    for _ in range(1 if num_classes == 2 else MAX_SWEEPS):
        for c in range(1, num_classes):
            others_NC = scores_NC + offsets_C
            others_NC[:, c] = -torch.inf
            margin_N = (scores_NC[:, c] - others_NC.amax(1)).sort(descending=True).values
            # Entry k: the k-th largest margin; the ends stand beyond all rows.
            bounds = torch.cat([margin_N[:1] + 1, margin_N, margin_N[-1:] - 1])
            around = bounds.gather(0, counts_C[c] + torch.arange(2, device=bounds.device))
            offsets_C[c] = -around.mean()
    return offsets_C


def harden_by_prior(logits_BC: Tensor, offsets_C: Tensor) -> Tensor:
    """One-hot of argmax_c(logits_c + offset_c), without gradient; the first one of equals."""
    classes_B = (logits_BC.detach().float() + offsets_C).argmax(1)
    return functional.one_hot(classes_B, logits_BC.shape[1]).float()


def confidence_loss(logits_BC: Tensor, weak_BC: Tensor, hard_BC: Tensor, weight: float) -> Tensor:
    """Cross-entropy [B], in nats, of the student to (1 - weight) weak + weight hard."""
    targets_BC = (1 - weight) * weak_BC + weight * hard_BC
    return functional.cross_entropy(logits_BC, targets_BC, reduction="none")


class Confidence(Loss):
    """Cross-entropy to a mix of weak labels and the student's own hardened predictions."""

    kind: Literal["confidence"] = "confidence"
    """Name of the loss."""
    max_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the student's own prediction after the warm-up. The paper: 0.75 for the largest
    students, else 0.5."""
    warmup_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of training over which the weight rises from 0; 0: full weight from the start."""

    @property
    def needs_whole_batch(self) -> bool:
        """The threshold is that of the whole update."""
        return True

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Confidence loss of each example, with the threshold of the whole update."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        logits_NC, weak_NC = batch.whole_logits_NC, batch.whole_targets_NC
        if logits_NC is None or weak_NC is None:
            logits_NC, weak_NC = logits_BC.detach(), batch.targets_BC
        hard_BC = harden_by_prior(logits_BC, prior_offsets(logits_NC, weak_NC))
        weight = self.max_weight * ramp(progress, self.warmup_fraction)
        agreement = (hard_BC.argmax(1) == batch.targets_BC.argmax(1)).float().mean()
        return LossOutput(
            confidence_loss(logits_BC, batch.targets_BC, hard_BC, weight),
            {"confidence_weight": weight, "hardened_agreement": agreement},
        )
