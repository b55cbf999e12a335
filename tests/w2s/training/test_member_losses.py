"""Several labels a row: hand-worked numbers, rows copied once a member, and weights that learn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.w2s.losses.toy import for_every_loss
from w2s.errors import UserError
from w2s.losses.base import Batch, Loss
from w2s.losses.evidential import Evidential
from w2s.losses.kl import KL
from w2s.losses.xent import Xent
from w2s.training.config import ProbeConfig
from w2s.training.members import MemberWeights, Objective
from w2s.training.parallel import Replicas
from w2s.training.probing import fit_probe, probe_logprobs
from w2s.training.sharding import autocast_to
from w2s.weightings.dynamic import Dynamic
from w2s.weightings.fixed import Fixed
from w2s.weightings.learned import Learned
from w2s.weightings.mean import Mean


class Counted(nn.Module):
    """Logits that are its parameter, one row each; counts how often it is read."""

    def __init__(self, logits_NC: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_NC.clone())
        self.passes = 0

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        self.passes += 1
        return self.logits[input_ids_BT.squeeze(1)]


def batch(rows_B: Tensor, targets: Tensor) -> Batch:
    return Batch(rows_B.unsqueeze(1), torch.ones_like(rows_B).unsqueeze(1), targets)


def applied(
    loss: Loss, logits_NC: Tensor, targets_BMC: Tensor, members: MemberWeights
) -> tuple[Tensor, Tensor, int]:
    """Losses [B] of all rows, the gradient of their sum [N, C], and the passes it took."""
    model = Counted(logits_NC)
    rows = torch.arange(len(logits_NC))
    shares = torch.ones(len(rows))
    output = Objective(loss, members)(model, batch(rows, targets_BMC), rows, shares, 0.5)
    output.losses_B.sum().backward()
    assert model.logits.grad is not None
    return output.losses_B.detach(), model.logits.grad, model.passes


# A student of (1/4, 3/4); members that say class 0, class 1.
LOGITS = torch.tensor([[0.0, math.log(3)]])
MEMBERS = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])


def test_loss_is_the_weighted_sum_of_the_members_losses_by_hand() -> None:
    weighting = Fixed(values=(1, 3))
    members = MemberWeights(weighting, weighting.weights(np.zeros((1, 2, 2))))
    losses, gradient, passes = applied(Xent(), LOGITS, MEMBERS, members)
    # 1/4 ln 4 + 3/4 ln 4/3; the gradient is p - (1/4, 3/4) = 0.
    expected = math.log(4) / 4 + 3 * math.log(4 / 3) / 4
    assert losses.tolist() == pytest.approx([expected])
    assert gradient.flatten().tolist() == pytest.approx([0, 0], abs=1e-7)
    assert passes == 1


def test_bayesian_loss_of_two_members_by_hand() -> None:
    # z = (0, ln 3): alpha = (2, 4), S = 6. Labels one-hot: ln 6/2 and ln 6/4.
    members = MemberWeights(Mean(), Mean().weights(np.zeros((1, 2, 2))))
    losses, _, _ = applied(Evidential(kl_weight=0), LOGITS, MEMBERS, members)
    assert losses.tolist() == pytest.approx([(math.log(3) + math.log(1.5)) / 2])


def test_weights_of_every_kind_by_hand() -> None:
    # Confidences (.9, .6) in the first row, (.5, .8) in the second.
    logprobs = np.log([[[0.9, 0.1], [0.4, 0.6]], [[0.5, 0.5], [0.8, 0.2]]])
    np.testing.assert_allclose(Mean().weights(logprobs), 0.5)
    np.testing.assert_allclose(Fixed(values=(1, 3)).weights(logprobs), [[0.25, 0.75]] * 2)
    np.testing.assert_allclose(
        Dynamic().weights(logprobs), [[0.9 / 1.5, 0.6 / 1.5], [0.5 / 1.3, 0.8 / 1.3]]
    )
    np.testing.assert_allclose(Learned().weights(logprobs), 0.5)


def test_a_weighting_refuses_members_that_it_has_no_weights_for() -> None:
    with pytest.raises(UserError, match="2 values for 3 members"):
        Fixed(values=(1, 3)).check_members(3)
    with pytest.raises(ValueError, match="one of them must be above 0"):
        Fixed(values=(0, 0))


@for_every_loss
def test_members_are_rows_copied_once_a_member_and_weighed(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, generator=generator) * 2
    targets = torch.randn(6, 3, 2, generator=generator).mul(2).softmax(2)
    weights = torch.randn(6, 3, generator=generator).softmax(1)
    members = MemberWeights(Dynamic(), weights.numpy())
    losses, gradient, passes = applied(loss, logits, targets, members)

    model = Counted(logits)
    rows = torch.arange(6)
    copied = torch.zeros(6)
    for member in range(3):  # batch statistics are those of one member's labels
        copies = loss(model, batch(rows, targets[:, member]), 0.5).losses_B
        copied = copied + weights[:, member] * copies
    copied.sum().backward()
    assert model.logits.grad is not None
    torch.testing.assert_close(losses, copied.detach())
    torch.testing.assert_close(gradient, model.logits.grad)
    assert (passes, model.passes) == (1, 3)


def test_cross_entropy_of_members_teaches_their_weighted_mean_and_evidence_does_not() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 3, generator=generator)
    targets = torch.randn(5, 2, 3, generator=generator).mul(2).softmax(2)
    weights = torch.tensor([[0.3, 0.7]]).expand(5, -1)
    members = MemberWeights(Dynamic(), weights.numpy())
    mean = (targets * weights.unsqueeze(2)).sum(1)

    def of_mean(loss: Loss) -> Tensor:
        model = Counted(logits)
        loss(model, batch(torch.arange(5), mean), 0.5).losses_B.sum().backward()
        assert model.logits.grad is not None
        return model.logits.grad

    for loss in (Xent(), KL(), Evidential(kl_weight=0)):
        torch.testing.assert_close(applied(loss, logits, targets, members)[1], of_mean(loss))
    evidential = Evidential()
    assert (
        applied(evidential, logits, targets, members)[1] - of_mean(evidential)
    ).abs().max() > 0.01


def test_metrics_are_means_over_members() -> None:
    class Scored(Loss):
        kind: str = "scored"

        def __call__(self, model: nn.Module, batch: Batch, progress: float):
            output = Xent()(model, batch, progress)
            return replace(output, metrics={"first": batch.targets_BC[:, 0].mean()})

    members = MemberWeights(Fixed(values=(1, 3)), np.array([[0.25, 0.75]]))
    rows = torch.zeros(1, dtype=torch.long)
    output = Objective(Scored(), members)(
        Counted(LOGITS), batch(rows, MEMBERS), rows, torch.ones(1), 0.5
    )
    assert {name: float(value) for name, value in output.metrics.items()} == {"first": 0.25}


def test_learned_weights_step_down_the_gradient_by_hand() -> None:
    # Losses ln 4 and ln 4/3 in nats, rate .1: (.5 - .1 ln 4, .5 - .1 ln 4/3), scaled to sum 1.
    learned = Learned(learning_rate=0.1, uniform_epochs=1)
    members = MemberWeights(learned, np.full((1, 2), 0.5))
    objective = Objective(Xent(), members)
    rows = torch.zeros(1, dtype=torch.long)

    def update(epoch: int) -> None:
        objective(Counted(LOGITS), batch(rows, MEMBERS), rows, torch.ones(1), 0.5)
        objective.step(epoch, Replicas())

    update(epoch=0)
    assert members.learned == [0.5, 0.5]
    update(epoch=1)
    moved = np.array([0.5 - 0.1 * math.log(4), 0.5 - 0.1 * math.log(4 / 3)])
    assert members.learned == pytest.approx((moved / moved.sum()).tolist())
    assert {name: float(value) for name, value in objective.metrics.items()} == pytest.approx(
        {"member_0_weight": moved[0] / moved.sum(), "member_1_weight": moved[1] / moved.sum()}
    )


def test_learned_weights_are_exact_in_half_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 2, generator=generator)
    targets = torch.randn(64, 3, 2, generator=generator).mul(2).softmax(2)
    found = []
    for precision in ("fp32", "bf16"):
        members = MemberWeights(
            Learned(learning_rate=0.5, uniform_epochs=0), np.full((64, 3), 1 / 3)
        )
        objective = Objective(Xent(), members)
        rows, shares = torch.arange(64), torch.full((64,), 1 / 64)
        with autocast_to("cpu", precision):
            output = objective(Counted(logits), batch(rows, targets), rows, shares, 0.5)
        objective.step(1, Replicas())
        assert output.losses_B.dtype == torch.float32
        found.append(members.learned)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_learned_weight_never_falls_below_its_floor() -> None:
    weights = Learned(learning_rate=10.0).update(
        torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), epoch=5
    )
    assert weights.tolist() == pytest.approx([1e-6 / (0.5 + 1e-6), 0.5 / (0.5 + 1e-6)])


def test_weight_goes_to_the_member_whose_labels_can_be_learnt() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 4, generator=generator)
    right = torch.eye(2)[(features[:, 0] > 0).long()]
    noise = torch.eye(2)[torch.randint(0, 2, (200,), generator=generator)]
    targets = torch.stack([noise, right], 1).numpy()
    config = ProbeConfig(epochs=40, batch_size=50, learning_rate=0.05)

    def fitted(weighting: Learned | Mean) -> tuple[MemberWeights, float]:
        members = MemberWeights(weighting, np.full((200, 2), 0.5))
        head = fit_probe(features, targets, Xent(), config, seed=0, members=members).head
        found = probe_logprobs(head, features)
        return members, float(np.exp(found)[right.numpy() == 1].mean())

    learned, probability = fitted(Learned(uniform_epochs=5))
    assert learned.learned is not None
    assert learned.learned[1] > 0.9
    given, mean_probability = fitted(Mean())
    assert given.learned is None
    assert probability > mean_probability + 0.1


def test_a_probe_of_members_weighs_rows_too() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 3, generator=generator)
    targets = torch.randn(30, 2, 2, generator=generator).softmax(2).numpy()
    member_weights = np.tile([0.2, 0.8], (30, 1))
    row_weights = np.linspace(0.5, 2, 30)
    config = ProbeConfig(epochs=10, batch_size=30, learning_rate=0.05)
    together = fit_probe(
        features,
        targets,
        Evidential(),
        config,
        seed=0,
        weights_N=row_weights,
        members=MemberWeights(Dynamic(), member_weights),
    ).head
    # The same as 60 rows: each row once a member, with the product of both weights.
    copied = fit_probe(
        features.repeat(2, 1),
        np.concatenate([targets[:, 0], targets[:, 1]]),
        Evidential(),
        ProbeConfig(epochs=10, batch_size=60, learning_rate=0.05),
        seed=0,
        weights_N=np.concatenate([0.2 * row_weights, 0.8 * row_weights]),
    ).head
    torch.testing.assert_close(together.weight_CD, copied.weight_CD, atol=1e-4, rtol=1e-3)
