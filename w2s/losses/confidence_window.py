"""Cross-entropy to the weak labels of those rows of which the student is unsure.

    L = CE(f, f_w) where max_c f_c < 1/2 + radius, else 0

f is the student, f_w the weak label. A student that is already sure of a row is not dragged back by
its label (EleutherAI, Experiments in Weak-to-Strong Generalization, 2024). The radius is a number,
or follows the supervisor: then the window ends at the median over the update of the weak labels'
own confidence, max_c f_w,c.

B examples of the part, N examples of the whole update, C classes.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from w2s.losses.base import Batch, Loss
from w2s.types import LossOutput


def median_confidence(weak_NC: Tensor) -> Tensor:
    """Median over the rows of the labels' largest probability, a scalar."""
    return weak_NC.float().amax(1).quantile(0.5)


def in_window(logits_BC: Tensor, limit: Tensor | float) -> Tensor:
    """1.0 [B] where the student's largest probability is below the limit, else 0.0."""
    return (logits_BC.detach().float().softmax(1).amax(1) < limit).float()


class ConfidenceWindow(Loss):
    """Cross-entropy to the weak labels, only on rows of which the student is unsure."""

    kind: Literal["confidence_window"] = "confidence_window"
    """Name of the loss."""
    radius: Annotated[float, Field(gt=0, le=0.5)] | Literal["weak_median"] = 0.15
    """A row is learned while the student's largest probability is below 0.5 + radius;
    `weak_median`: below the median confidence of the update's weak labels."""

    @property
    def needs_whole_batch(self) -> bool:
        """The median is that of the whole update."""
        return self.radius == "weak_median"

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> LossOutput:
        """Cross-entropy of each example in the window, 0 of the others."""
        logits_BC = model(batch.input_ids_BT, batch.attention_mask_BT)
        if self.radius == "weak_median":
            weak_NC = batch.targets_BC if batch.whole_targets_NC is None else batch.whole_targets_NC
            limit = median_confidence(weak_NC)
        else:
            limit = 0.5 + self.radius
        window_B = in_window(logits_BC, limit)
        losses_B = functional.cross_entropy(logits_BC, batch.targets_BC, reduction="none")
        return LossOutput(losses_B * window_B, {"window_share": window_B.mean()})
