"""Stage brokers with a fault, where workers can import them."""

from sweeps.broker import StageBroker


class Unheard(StageBroker):
    """Its call to itself was lost: Ray may do that when an actor is started again."""

    num_begins = 0

    async def begin(self) -> None:
        """Begin when asked a second time."""
        self.num_begins += 1
        if self.num_begins > 1:
            await super().begin()
