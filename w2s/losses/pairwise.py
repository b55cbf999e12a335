"""Soft binary cross-entropy on the difference of two rewards.

    L = -(1 - y) log sigma(r_0 - r_1) - y log sigma(r_1 - r_0)

for rows that are a choice between two whole texts: r_0 and r_1 are their rewards, y is the (weak)
probability that the second is preferred (Burns et al. 2023, appendix A.3). The rewards are the
logits, so this equals soft cross-entropy on them; it goes by its name in reward modelling here, and
reports the margin by which the preferred text leads.

B examples, C = 2 texts of a row.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from w2s.losses.base import Batch, Loss, require_two_classes
from w2s.types import LossOutput


def pairwise_loss(rewards_BC: Tensor, preferred_BC: Tensor) -> Tensor:
    """Binary cross-entropy [B], in nats.

    Args:
        rewards_BC: a reward for each of a row's two texts.
        preferred_BC: probability that it is the preferred one; adds up to 1.
    """
    return functional.binary_cross_entropy_with_logits(
        rewards_BC[:, 1] - rewards_BC[:, 0], preferred_BC[:, 1], reduction="none"
    )


class Pairwise(Loss):
    """Binary cross-entropy on the difference of two texts' rewards."""

    kind: Literal["pairwise"] = "pairwise"
    """Name of the loss."""

    def check_classes(self, num_classes: int) -> None:
        """Refuse a task that is not a choice between two."""
        require_two_classes(self, num_classes, instead="xent")

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Binary cross-entropy of each pair."""
        rewards_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        self.check_classes(rewards_BC.shape[1])
        signs_B = 2.0 * batch.targets_BC.argmax(1) - 1
        margin = ((rewards_BC[:, 1] - rewards_BC[:, 0]).detach() * signs_B).mean()
        return LossOutput(pairwise_loss(rewards_BC, batch.targets_BC), {"reward_margin": margin})
