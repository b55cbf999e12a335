"""Fields and graph of the methods whose supervisors read debates."""

from typing import Literal

from serving.debate.protocols.base import DebateProtocol
from w2s.errors import UserError
from w2s.methods.base import Method
from w2s.spec import OneOf
from w2s.stages.base import Stage
from w2s.stages.ensemble import Ensemble
from w2s.stages.setup import Setup


class Debating(Method):
    """Who debates, and how."""

    debater: str = "strong"
    """Who argues: `strong`, `weak` (self-debate, a control), a rung of the ladder or a speaker of
    the sweep."""
    opponent: str | None = None
    """Who speaks for side B; None: the debater, too."""
    judge: str | None = None
    """Who asks questions or chooses among candidates, where the protocol has that; None: the weak
    model."""
    protocol: OneOf[DebateProtocol] | None = None
    """How debates go: `w2s list protocols`; None: as the sweep says."""
    orders: Literal["drawn", "both"] = "drawn"
    """One debate a row with sides drawn at random; or two, in which A and B exchange what they
    defend, each with its own reader, averaged."""

    def debates(self, setup: Setup) -> tuple[Stage, ...]:
        """The debates about every row at one seed: one stage, or one for each order.

        Raises:
            UserError: an unknown name, an encoder, or a protocol that does not fit.
        """
        protocol = self.protocol or setup.protocol
        if self.orders == "both" and not protocol.has_orders:
            raise UserError(
                f'method {self.kind!r} has orders = "both", but protocol {protocol.kind!r} draws '
                "no positions; leave `orders` out"
            )
        return tuple(
            setup.debate(
                setup.named(self.debater),
                opponent=None if self.opponent is None else setup.named(self.opponent),
                judge=None if self.judge is None else setup.named(self.judge),
                protocol=one,
            )
            for one in (protocol.in_orders() if self.orders == "both" else (protocol,))
        )


def averaged(supervisors: tuple[Stage, ...]) -> Stage:
    """The one supervisor, or the mean of several."""
    return supervisors[0] if len(supervisors) == 1 else Ensemble(members=supervisors)
