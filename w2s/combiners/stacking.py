"""Stacking: a small model over what the members say (Wolpert 1992; Ting and Witten 1999).

Multinomial logistic regression on the members' centred log-probabilities, fitted by Newton's method
on rows that no member learnt. The penalty pulls towards the plain geometric mean, not towards
nothing, so that few held-out rows leave an ensemble as it was.

M members, N rows, H held-out rows, C classes, P parameters.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from w2s.combiners.base import Combiner, Floats, HeldOut, logs, softmax

STEPS = 100
TOLERANCE = 1e-10


def evidence(probabilities_MNC: Floats) -> Floats:
    """Log-probabilities of each member without their mean over the classes: [M, N, C]."""
    values_MNC = logs(probabilities_MNC)
    return values_MNC - values_MNC.mean(2, keepdims=True)


def stacked_logits(parameters_P: Floats, evidence_MNC: Floats) -> Floats:
    """One weight a member, then one bias a class: sum_m w_m z_mnc + b_c, [N, C]."""
    num_members = len(evidence_MNC)
    weights_M, biases_C = parameters_P[:num_members], parameters_P[num_members:]
    return np.tensordot(weights_M, evidence_MNC, axes=1) + biases_C


def fit_stack(
    evidence_MHC: Floats, labels_H: NDArray[np.int64], penalty: float
) -> NDArray[np.float64]:
    """Weights of the members and biases of the classes, [M + C].

    Minimises the summed cross-entropy plus penalty / 2 times the squared distance of the weights to
    1 / M and of the biases to 0. The problem is strictly convex, so there is one answer.
    """
    num_members, num_rows, num_classes = evidence_MHC.shape
    biases_HCC = np.broadcast_to(np.eye(num_classes), (num_rows, num_classes, num_classes))
    # d logit_hc / d parameter_p.
    inputs_HCP = np.concatenate([evidence_MHC.transpose(1, 2, 0), biases_HCC], axis=2)
    centre_P = np.concatenate([np.full(num_members, 1 / num_members), np.zeros(num_classes)])
    targets_HC = np.eye(num_classes)[labels_H]

    def objective(parameters_P: Floats) -> float:
        logits_HC = stacked_logits(parameters_P, evidence_MHC)
        logprobs_HC = logits_HC - np.logaddexp.reduce(logits_HC, axis=1, keepdims=True)
        distance = ((parameters_P - centre_P) ** 2).sum()
        return float(-(targets_HC * logprobs_HC).sum() + penalty / 2 * distance)

    parameters_P = centre_P.copy()
    value = objective(parameters_P)
    for _ in range(STEPS):
        probabilities_HC = softmax(stacked_logits(parameters_P, evidence_MHC))
        gradient_P = np.einsum("hc,hcp->p", probabilities_HC - targets_HC, inputs_HCP)
        gradient_P += penalty * (parameters_P - centre_P)
        mean_HP = np.einsum("hc,hcp->hp", probabilities_HC, inputs_HCP)
        hessian_PP = np.einsum("hc,hcp,hcq->pq", probabilities_HC, inputs_HCP, inputs_HCP)
        hessian_PP += penalty * np.eye(len(parameters_P)) - mean_HP.T @ mean_HP
        direction_P = np.linalg.solve(hessian_PP, gradient_P)
        length = 1.0
        while length > TOLERANCE and objective(parameters_P - length * direction_P) > value:
            length /= 2
        parameters_P = parameters_P - length * direction_P
        before, value = value, objective(parameters_P)
        if before - value < TOLERANCE * (1 + abs(value)):
            break
    return parameters_P


class Stacking(Combiner):
    """Logistic regression on the members' log-probabilities, fitted on rows that none learnt."""

    is_fitted: ClassVar[bool] = True

    kind: Literal["stacking"] = "stacking"
    penalty: float = Field(default=1.0, gt=0)
    """Strength of the pull towards the geometric mean, in held-out rows: a larger set of rows
    outweighs it."""

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """Fit, then predict."""
        assert held_out is not None
        parameters_P = fit_stack(
            evidence(held_out.probabilities_MHC), held_out.labels_H, self.penalty
        )
        return softmax(stacked_logits(parameters_P, evidence(probabilities_MNC)))
