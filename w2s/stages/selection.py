"""Selection of weak labels: the rows a student learns from, by how sure the supervisor is.

N rows, C classes.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.errors import UserError
from w2s.stages.base import Stage, StageContext
from w2s.stages.labels import read_labels


class ConfidentSelection(Stage):
    """Keeps the labels of which the supervisor is most confident; the others get weight 0."""

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    by: Literal["threshold", "top_share"]
    """Keep labels whose top class has at least a probability, or the most confident of each
    class."""
    threshold: float = Field(default=0.75, ge=0, le=1)
    """Lowest probability of the top class, for `by = "threshold"`."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows of each class, for `by = "top_share"`."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"confident-{self.labels.name}"

    def run(self, context: StageContext) -> None:
        """Write the labels with a weight of 0 where they are not kept.

        Raises:
            UserError: no label reaches the threshold.
        """
        labels = read_labels(context.path(self.labels))
        probabilities_NC, weights_N = labels.probabilities_NC, labels.train_weights_N
        confidence_N = probabilities_NC.max(1)
        if self.by == "threshold":
            kept_N = confidence_N >= self.threshold
        else:
            kept_N = top_share_per_class(
                confidence_N, probabilities_NC.argmax(1), self.share, weights_N > 0
            )
        if not (kept_N & (weights_N > 0)).any():
            raise UserError(
                f"no weak label has a confidence of {self.threshold} or more; the highest is "
                f"{confidence_N.max():.3f}: lower `threshold`, or select by top_share"
            )
        labels.write(context.output_dir, weights_N=weights_N * kept_N)


def top_share_per_class(
    scores_N: NDArray[np.floating],
    classes_N: NDArray[np.integer],
    share: float,
    allowed_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """The rows with the highest scores of each class, `share` of them, rounded up.

    Args:
        scores_N: higher is kept first; of equal ones the first in order.
        classes_N: class of each row.
        share: of each class's rows, above 0 and at most 1.
        allowed_N: rows that can be kept and are counted; None: all.

    Returns:
        [N] whether a row is kept.
    """
    allowed_N = np.ones(len(scores_N), dtype=bool) if allowed_N is None else allowed_N
    kept_N = np.zeros(len(scores_N), dtype=bool)
    for number in np.unique(classes_N[allowed_N]):
        rows = np.flatnonzero((classes_N == number) & allowed_N)
        order = rows[np.argsort(-scores_N[rows], kind="stable")]
        # The product of 0.1 and 30 is a little above 3.
        kept_N[order[: int(np.ceil(share * len(rows) - 1e-9))]] = True
    return kept_N
