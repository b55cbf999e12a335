"""Evidential loss: the student learns a Dirichlet distribution over the class probabilities.

Cui et al. (2024, 2406.03199), after Sensoy et al. (2018). The logits z give the concentrations
alpha = g(z) + 1, S their sum; with the label y (soft or not) the loss is

    L = sum_c y_c (log S - log alpha_c)  +  kl_weight r KL(Dir(alpha~) || Dir(1))
    alpha~ = (alpha - 1)(1 - y) + 1

The first term is the type-II likelihood: under Dir(alpha) class c has probability alpha_c / S. The
second takes away evidence for classes that the label does not hold; r rises from 0 over training.

The label may be mixed with the student's own hardened prediction, y <- (1 - k) y + k onehot(argmax
z), with no gradient through it: the paper's confidence-augmented variant. k rises linearly here; in
the published code it climbs to a quarter of the share and then jumps. RAVEN (2025, 2510.21332)
mixes the losses of both labels in place of the labels, which differs in the KL term alone:
(1 - k) L(z, y) + k L(z, onehot(argmax z)), with k = 1/2 from the start.

Predictions stay softmax(z), so that all losses are read alike: the most probable class is that of
alpha / S.

B examples, C classes.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses._schedule import ramp
from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput

Evidence = Literal["exp", "relu"]

MAX_LOG_EVIDENCE = 20.0
"""Cap on log(alpha - 1) in the KL term, which is a difference of numbers near alpha log alpha: at
e^20 float64 still leaves six digits after the point; the term grows as log alpha only."""


def log_concentrations(logits_BC: Tensor, evidence: Evidence) -> Tensor:
    """Log of alpha [B, C], without overflow: alpha = exp(z) + 1, or max(z, 0) + 1."""
    if evidence == "exp":
        return functional.softplus(logits_BC)
    return torch.log1p(functional.relu(logits_BC))


def type_two_likelihood_loss(log_alpha_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """sum_c y_c (log S - log alpha_c) [B], in nats."""
    return (targets_BC * (log_alpha_BC.logsumexp(1, keepdim=True) - log_alpha_BC)).sum(1)


def kl_to_uniform(alpha_BC: Tensor) -> Tensor:
    """KL(Dir(alpha) || Dir(1)) [B], in nats; Dir(1) is uniform over the simplex."""
    total_B1 = alpha_BC.sum(1, keepdim=True)
    log_normaliser_B = total_B1.squeeze(1).lgamma() - alpha_BC.lgamma().sum(1)
    spread_B = ((alpha_BC - 1) * (alpha_BC.digamma() - total_B1.digamma())).sum(1)
    return log_normaliser_B - math.lgamma(alpha_BC.shape[1]) + spread_B


def misleading_evidence_kl(logits_BC: Tensor, targets_BC: Tensor, evidence: Evidence) -> Tensor:
    """KL(Dir(alpha~) || Dir(1)) [B]: alpha~ holds the evidence for what the label is not."""
    logits_BC = logits_BC.double()
    if evidence == "exp":
        evidence_BC = logits_BC.clamp_max(MAX_LOG_EVIDENCE).exp()
    else:
        evidence_BC = functional.relu(logits_BC)
    return kl_to_uniform(evidence_BC * (1 - targets_BC.double()) + 1).float()


def evidential_loss(
    logits_BC: Tensor, targets_BC: Tensor, kl_weight: float, evidence: Evidence
) -> Tensor:
    """Type-II likelihood loss plus `kl_weight` times the KL of misleading evidence [B], in nats."""
    fit_B = type_two_likelihood_loss(log_concentrations(logits_BC, evidence), targets_BC)
    return fit_B + kl_weight * misleading_evidence_kl(logits_BC, targets_BC, evidence)


class Evidential(Loss):
    """Type-II likelihood of a Dirichlet from the logits, and a KL term against false evidence."""

    kind: Literal["evidential"] = "evidential"
    """Name of the loss."""
    evidence: Evidence = "exp"
    """How a logit becomes evidence: exp(z), or max(z, 0)."""
    kl_weight: float = Field(default=1.0, ge=0)
    """Weight of the KL term at the end of its rise. The paper's code has 1e-4, for a vocabulary of
    32,000 classes."""
    kl_warmup_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of training over which the weight of the KL term rises from 0."""
    confidence_weight: float = Field(default=0.0, ge=0, le=1)
    """Weight of the student's own hardened prediction in the label after the warm-up; the paper's
    confidence-augmented variant has 0.2, 0 is the plain one."""
    confidence_warmup_fraction: float = Field(default=0.25, ge=0, le=1)
    """Share of training over which that weight rises from 0."""
    confidence_mix: Literal["labels", "losses"] = "labels"
    """What is mixed: the label with the student's own, or the losses of the two (RAVEN, whose
    weight is 0.5 without a warm-up)."""

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Evidential loss of each example."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        num_classes = logits_BC.shape[1]
        own_weight = self.confidence_weight * ramp(progress, self.confidence_warmup_fraction)
        own_BC = functional.one_hot(logits_BC.detach().argmax(1), num_classes)
        kl_weight = self.kl_weight * ramp(progress, self.kl_warmup_fraction)

        def loss_of(targets_BC: Tensor) -> Tensor:
            return evidential_loss(logits_BC, targets_BC, kl_weight, self.evidence)

        if self.confidence_mix == "labels":
            losses_B = loss_of((1 - own_weight) * batch.targets_BC + own_weight * own_BC)
        else:
            losses_B = (1 - own_weight) * loss_of(batch.targets_BC) + own_weight * loss_of(own_BC)
        log_total_B = log_concentrations(logits_BC.detach(), self.evidence).logsumexp(1)
        return LossOutput(
            losses_B,
            {"vacuity": (num_classes * (-log_total_B).exp()).mean(), "kl_weight": kl_weight},
        )
