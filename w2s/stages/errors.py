"""Synthetic weak labels: the truth with errors of a chosen kind (Burns et al. 2023, appendix E).

What a student makes of a supervisor's errors depends on where they lie. Here their number is that
of a real supervisor and their place is ours. N rows, C classes.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth, Prompts, read_prompts
from w2s.stages.labels import joined, probabilities_of, read_labels, true_labels

Errors = Literal["random", "longest", "shortest", "hardest", "easiest"]


class SyntheticErrors(Stage):
    """Hard labels: the truth of `strong_train`, wrong on a share of the rows.

    As many rows are wrong as `labels` has wrong, unless a rate is given.
    """

    labels: SerializeAsAny[Stage]
    """Weak labels whose number of errors is matched; those of `val` and `test` go through."""
    truth: GroundTruth
    """Ground truth of `strong_train`."""
    prompts: Prompts
    """For the length of the rows."""
    reference: SerializeAsAny[Stage] | None = None
    """Predictions whose confidence in the truth says what is hard; None where nothing asks."""
    errors: Errors
    """Where errors lie: anywhere, on the longest or shortest prompts (characters), or where the
    reference gives the truth the least or most probability."""
    rate: float | None = Field(default=None, ge=0, le=1)
    """Share of wrong labels; None: that of `labels`."""
    seed: int = Field(ge=0)
    """Which rows, among equals, and which wrong class, where there are several."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"errors-{self.errors}-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write the labels."""
        labels = read_labels(context.path(self.labels))
        row_ids = labels.row_ids
        truth_N = true_labels(context.path(self.truth), row_ids)
        weak_NC = labels.probabilities_NC
        rate = self.rate
        if rate is None:
            rate = float((weak_NC.argmax(1) != truth_N).mean())
        generator = np.random.default_rng(self.seed)
        wrong_N = highest(self._order(context, row_ids, truth_N), rate, generator)
        labels_N = corrupted(truth_N, wrong_N, weak_NC.shape[1], generator)
        labels.write(context.output_dir, probabilities_NC=np.eye(weak_NC.shape[1])[labels_N])

    def _order(
        self, context: StageContext, row_ids: list[str], truth_N: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[N]: the rows with the highest values are wrong."""
        if self.errors == "random":
            return np.zeros(len(row_ids))
        if self.errors in ("longest", "shortest"):
            prompts = read_prompts(context.path(self.prompts), "strong_train")
            lengths_N = joined(prompts, row_ids, "prompts")["prompt"].str.len().to_numpy(np.float64)
            return lengths_N if self.errors == "longest" else -lengths_N
        assert self.reference is not None
        reference_NC = probabilities_of(context.path(self.reference), row_ids, "strong_train")
        confidence_N = reference_NC[np.arange(len(truth_N)), truth_N]
        return confidence_N if self.errors == "easiest" else -confidence_N


def highest(
    values_N: NDArray[np.floating], share: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Whether a row is among the round(share * N) highest; chance decides among equals."""
    number = round(share * len(values_N))
    order = np.lexsort((generator.permutation(len(values_N)), -values_N))
    chosen_N = np.zeros(len(values_N), dtype=bool)
    chosen_N[order[:number]] = True
    return chosen_N


def corrupted(
    labels_N: NDArray[np.integer],
    wrong_N: NDArray[np.bool_],
    num_classes: int,
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Labels that are another class, uniformly chosen, on the rows that are to be wrong."""
    shifts_N = generator.integers(1, num_classes, len(labels_N))
    return np.where(wrong_N, (labels_N + shifts_N) % num_classes, labels_N)
