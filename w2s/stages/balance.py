"""Weak labels balanced by the class that they predict (Sang et al. 2024). N rows, C classes."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.errors import UserError
from w2s.stages.base import Stage, StageContext
from w2s.stages.labels import read_labels


class BalancedLabels(Stage):
    """Keeps equally many random rows of each predicted class; the others get weight 0."""

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    num_rows: int | None = Field(default=None, ge=1)
    """Rows of each class; None: as many as the smallest one has."""
    seed: int = Field(ge=0)
    """Which rows. More of them at the same seed hold those of fewer."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"balanced-{self.labels.name}"

    def run(self, context: StageContext) -> None:
        """Write the labels with a weight of 0 where they are not kept.

        Raises:
            UserError: a class has fewer rows than are wanted of it, or none.
        """
        labels = read_labels(context.path(self.labels))
        probabilities_NC, weights_N = labels.probabilities_NC, labels.train_weights_N
        classes_N, usable_N = probabilities_NC.argmax(1), weights_N > 0
        counts_C = np.bincount(classes_N[usable_N], minlength=probabilities_NC.shape[1])
        smallest, wanted = int(counts_C.min()), self.num_rows
        if smallest < (wanted or 1):
            raise UserError(
                f"{wanted or 1} rows of each predicted class are wanted, but the labels predict "
                f"{', '.join(map(str, counts_C))} of class 0, 1, ...; lower `num_rows`, or do "
                "without the balance"
            )
        kept_N = balanced(classes_N, usable_N, wanted or smallest, self.seed)
        labels.write(context.output_dir, weights_N=weights_N * kept_N)


def balanced(
    classes_N: NDArray[np.integer], usable_N: NDArray[np.bool_], num_rows: int, seed: int
) -> NDArray[np.bool_]:
    """[N] with `num_rows` usable rows of each class True, the first ones of one random order."""
    order_N = np.random.default_rng(seed).permutation(len(classes_N))
    kept_N = np.zeros(len(classes_N), dtype=bool)
    for number in np.unique(classes_N[usable_N]):
        kept_N[order_N[(classes_N == number)[order_N] & usable_N[order_N]][:num_rows]] = True
    return kept_N
