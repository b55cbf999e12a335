"""The evidential loss: hand-worked numbers, torch.distributions, scipy, and huge logits."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import dirichlet
from torch.distributions import Dirichlet, kl_divergence

from tests.w2s.losses.toy import apply, random_case
from w2s.losses.evidential import (
    MAX_LOG_EVIDENCE,
    Evidence,
    Evidential,
    kl_to_uniform,
    log_concentrations,
    misleading_evidence_kl,
    type_two_likelihood_loss,
)

LABEL_1 = torch.tensor([[0.0, 1.0]])


@pytest.mark.parametrize(
    ("evidence", "logits"), [("relu", [[1.0, 3.0]]), ("exp", [[0.0, math.log(3)]])]
)
def test_loss_equals_hand_worked_numbers(evidence: Evidence, logits: list[list[float]]) -> None:
    # alpha = (2, 4), S = 6, label 1: ln 6/4. The evidence against it is Beta(2, 1), whose density
    # is 2x: the integral of 2x ln 2x over (0, 1) is ln 2 - 1/2.
    fit, misleading = math.log(1.5), math.log(2) - 0.5
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        loss = Evidential(evidence=evidence, kl_weight=0.3, kl_warmup_fraction=0.5)
        output, _ = apply(loss, torch.tensor(logits), LABEL_1, progress)
        assert output.losses_B.tolist() == pytest.approx([fit + 0.3 * share * misleading])
        assert float(output.metrics["vacuity"]) == pytest.approx(2 / 6)


def test_negative_logits_are_no_evidence_under_relu() -> None:
    assert log_concentrations(torch.tensor([-3.0, 0.0, 1.0]), "relu").tolist() == pytest.approx(
        [0, 0, math.log(2)]
    )


def test_first_term_is_the_expected_probability_under_the_dirichlet() -> None:
    logits, labels = random_case()
    found = type_two_likelihood_loss(log_concentrations(logits, "exp"), labels)
    for row, label, loss in zip(logits, labels, found, strict=True):
        mean = dirichlet.mean(np.exp(row.double().numpy()) + 1)
        assert float(loss) == pytest.approx(-(label.numpy() * np.log(mean)).sum(), rel=1e-5)


def test_kl_is_that_of_two_dirichlets() -> None:
    alpha = random_case(classes=4)[0].double().exp() + 1
    expected = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha)))
    torch.testing.assert_close(kl_to_uniform(alpha), expected)


@pytest.mark.parametrize("evidence", ["exp", "relu"])
def test_loss_and_gradient_follow_from_the_paper_formula(evidence: Evidence) -> None:
    logits, labels = random_case()
    z = logits.double().requires_grad_()
    y = labels.double()
    alpha = (z.exp() if evidence == "exp" else z.relu()) + 1
    total = alpha.sum(1, keepdim=True)
    tilde = (alpha - 1) * (1 - y) + 1
    kl = kl_divergence(Dirichlet(tilde), Dirichlet(torch.ones_like(tilde)))
    expected = (y * (total.log() - alpha.log())).sum(1) + 0.5 * kl
    expected.sum().backward()
    output, gradient = apply(Evidential(evidence=evidence), logits, labels, progress=0.5)
    assert z.grad is not None
    torch.testing.assert_close(output.losses_B.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), z.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("z", [5.0, 12.0, 19.0, 50.0])
def test_kl_of_huge_evidence_keeps_its_digits(z: float) -> None:
    # KL(Beta(a, 1) || uniform) = ln a - (a - 1) / a, with a = e^z + 1 up to the cap.
    a = math.exp(min(z, MAX_LOG_EVIDENCE)) + 1
    found = misleading_evidence_kl(torch.tensor([[z, 0.0]]), LABEL_1, "exp")
    assert float(found) == pytest.approx(math.log(a) - (a - 1) / a, abs=1e-5)


def test_evidence_for_the_label_alone_is_not_misleading() -> None:
    found = misleading_evidence_kl(torch.tensor([[-40.0, 7.0]]), LABEL_1, "exp")
    assert float(found) == pytest.approx(0, abs=1e-9)


def test_confidence_mixes_in_the_students_own_choice() -> None:
    # The student chooses class 0; weight .2, half-way through its warm-up: (.4, .6) -> (.46, .54).
    logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.4, 0.6]])
    mixed = Evidential(confidence_weight=0.2, confidence_warmup_fraction=1.0, kl_weight=0)
    output, gradient = apply(mixed, logits, labels, progress=0.5)
    expected, expected_gradient = apply(
        Evidential(kl_weight=0), logits, torch.tensor([[0.46, 0.54]]), progress=0.5
    )
    torch.testing.assert_close(output.losses_B, expected.losses_B)
    torch.testing.assert_close(gradient, expected_gradient)


def test_confidence_can_mix_the_losses_of_both_labels() -> None:
    # alpha = (2, 4): the student chooses class 1 at a loss of ln 6/4, and ln 2 - 1/2 for the
    # evidence of Beta(2, 1) against it; the label, class 0, costs ln 6/2, and Beta(1, 4) is
    # 4 (1 - x)^3, whose KL is ln 4 - 3/4.
    loss = Evidential(
        kl_weight=0.3, confidence_weight=0.5, confidence_warmup_fraction=0, confidence_mix="losses"
    )
    output, _ = apply(loss, torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]]))
    own = math.log(1.5) + 0.3 * (math.log(2) - 0.5)
    label = math.log(3) + 0.3 * (math.log(4) - 0.75)
    assert output.losses_B.tolist() == pytest.approx([(own + label) / 2])
