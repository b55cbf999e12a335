"""What a loss is: fields that are its hyperparameters, and one call per update.

The trainer hands over the student's logits for the whole update when the loss declares
`needs_whole_batch` (its targets depend on batch statistics), else for any part of it. With several
workers or micro-batches, the trainer first runs the forward pass without gradient, gathers the
detached logits of the whole update in row order, and gives them as `whole_logits_BC`; the statistic
is then the same however the update is cut up.

B examples of the part, N examples of the whole update, C classes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
    """Targets of the whole update; only for a loss with `needs_whole_batch`."""
    whole_logits_NC: "Tensor | None" = None
    """Detached logits of the whole update, row for row with `whole_targets_NC`."""


class Loss(Spec):
    """A training objective for a classification head."""

    kind: str
    """Name of the loss: the name of its file."""
    needs_whole_batch: ClassVar[bool] = False
    """Whether targets depend on statistics of the whole update."""

    def __call__(self, model: "nn.Module", batch: Batch, progress: float) -> LossOutput:
        """Loss of one part of an update.

        Args:
            model: maps (input_ids_BT, attention_mask_BT) to logits_BC.
            batch: the part.
            progress: share of the optimizer steps already taken, 0 to 1.

        Returns:
            A loss per example (the trainer applies sample weights and averages over the whole
            update, however it is cut up), and metrics for the curve.
        """
        raise NotImplementedError
