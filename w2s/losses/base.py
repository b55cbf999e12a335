"""What a loss is: fields that are its hyperparameters, and one call per update.

The trainer hands over the student's logits for the whole update when the loss says
`needs_whole_batch` (its targets depend on batch statistics), else for any part of it. With several
workers or micro-batches, the trainer first runs the forward pass without gradient, gathers the
detached logits of the whole update in row order, and gives them as `whole_logits_NC`; the statistic
is then the same however the update is cut up. Sample weights are the trainer's: a loss does not see
them, and batch statistics count every row of the update once.

B examples of the part, N examples of the whole update, C classes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2s.errors import UserError
from w2s.spec import Spec
from w2s.types import LossOutput

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Batch:
    """One part of an update, as a loss sees it."""

    input_ids_BT: "Tensor"
    """Token ids, padded on the right."""
    attention_mask_BT: "Tensor"
    """1 on real tokens, 0 on padding."""
    targets_BC: "Tensor"
    """Class probabilities to learn from: weak labels, or one-hot ground truth."""
    whole_targets_NC: "Tensor | None" = None
    """Targets of the whole update; only for a loss with `needs_whole_batch`. None: the part is the
    whole update."""
    whole_logits_NC: "Tensor | None" = None
    """Detached logits of the whole update, row for row with `whole_targets_NC`."""


class Loss(Spec):
    """A training objective for a classification head."""

    kind: str
    """Name of the loss: the name of its file."""

    @property
    def needs_whole_batch(self) -> bool:
        """Whether targets depend on statistics of the whole update."""
        return False

    def check_classes(self, num_classes: int) -> None:
        """Refuse a task that the loss has no formula for; losses take any number unless they say.

        Raises:
            UserError: the loss is not defined for this number of classes.
        """

    def __call__(self, model: "nn.Module", batch: Batch, progress: float) -> LossOutput:
        """Loss of one part of an update.

        Args:
            model: maps (input_ids_BT, attention_mask_BT) to logits_BC.
            batch: the part.
            progress: share of the optimizer steps already taken, 0 to 1.

        Returns:
            A loss per example (the trainer applies sample weights and averages over the whole
            update, however it is cut up), and metrics for the curve.

        Raises:
            UserError: the loss is not defined for this number of classes.
        """
        raise NotImplementedError


def require_two_classes(loss: Loss, num_classes: int, instead: str) -> None:
    """Refuse a task of more than two classes.

    Args:
        loss: one that is only defined for two.
        num_classes: of the task.
        instead: kind of the loss to take for more.

    Raises:
        UserError: there are more (or fewer) than two.
    """
    if num_classes != 2:
        raise UserError(
            f"loss {loss.kind!r} is defined for 2 classes; the task has {num_classes}; "
            f"use {instead!r} there"
        )
