"""Weights row by row, by how sure each member is (Cui et al. 2024, "dynamic").

There a member's weight is the softmax over members of the mean log-probability of the words it
wrote. A class label is one word: its score is the log-probability of the member's most probable
class, so that the weight is the member's confidence divided by the sum of all members'.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from w2s.weightings.base import Weighting


class Dynamic(Weighting):
    """Row by row in proportion to the members' confidence, the probability of their top class."""

    kind: Literal["dynamic"] = "dynamic"
    """Name of the weighting."""

    def weights(self, logprobs_NMC: NDArray[np.floating]) -> NDArray[np.float64]:
        """softmax_m of max_c log p_m(c)."""
        confidence_NM = np.exp(logprobs_NMC.max(2).astype(np.float64))
        return confidence_NM / confidence_NM.sum(1, keepdims=True)
