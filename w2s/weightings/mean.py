"""All members count the same."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from w2s.weightings.base import Weighting, uniform


class Mean(Weighting):
    """All members count the same."""

    kind: Literal["mean"] = "mean"
    """Name of the weighting."""

    def weights(self, logprobs_NMC: NDArray[np.floating]) -> NDArray[np.float64]:
        """1 / M each."""
        return uniform(*logprobs_NMC.shape[:2])
