"""The product of members: log-probabilities are added (Hinton 2002, products of experts)."""

from typing import Literal

import numpy as np

from w2s.combiners.base import Combiner, Floats, HeldOut, logs, softmax
from w2s.errors import UserError


class Product(Combiner):
    """Product of the members' class probabilities, each to a power, scaled to sum to 1.

    Right for members that err independently given the class and start from equal classes; members
    that err alike make it too sure of itself.
    """

    kind: Literal["product"] = "product"
    powers: tuple[float, ...] = ()
    """Power of each member, in their order; empty: 1 each."""

    def check_members(self, num_members: int) -> None:
        """One power a member.

        Raises:
            UserError: there are more or fewer.
        """
        if self.powers and len(self.powers) != num_members:
            raise UserError(
                f"combine.powers has {len(self.powers)} numbers for {num_members} members; give "
                "one for each, or none"
            )

    def combine(self, probabilities_MNC: Floats, held_out: HeldOut | None = None) -> Floats:
        """Add the members' log-probabilities, times their powers."""
        powers_M = np.array(self.powers or [1.0] * len(probabilities_MNC))
        return softmax(np.einsum("m,mnc->nc", powers_M, logs(probabilities_MNC)))
