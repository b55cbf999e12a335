"""What a training does when its device runs out of memory: cut the update up further and go on.

The updates stay the same, so the result does, up to rounding: losses are sums over rows, and the
parts of an update add up. All replicas shrink together, whichever of them was too full. Replicas
that share a model out cannot: one that stops in the middle of a pass leaves the others waiting.

B rows of a part.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from w2s.training.parallel import Replicas

T = TypeVar("T")


class MicroBatch:
    """Rows of a forward pass at most; halved whenever that is too many for the device."""

    def __init__(
        self,
        size: int | None,
        replicas: Replicas,
        device: str,
        on_shrink: Callable[[int], None] = lambda micro_batch_size: None,
    ) -> None:
        """Begin with a size.

        Args:
            size: rows; None: all of this replica's share of an update.
            replicas: those that train together; all of them call `attempt` alike.
            device: of this replica.
            on_shrink: called with each smaller size.
        """
        self.size = size
        self._replicas = replicas
        self._device = device
        self._on_shrink = on_shrink

    def attempt(self, work: Callable[[], T], num_rows: int) -> T | None:
        """Do something with an update; None: there was no memory, `size` is smaller now.

        Args:
            work: what is done; it can be done again from the start.
            num_rows: rows of the update, over all replicas.

        Raises:
            torch.OutOfMemoryError: not even one row fits, or the model is shared out.
        """
        if self._replicas.sharded:
            return work()
        result, fits = None, 1.0
        try:
            result = work()
        except torch.OutOfMemoryError:
            fits = 0.0
        if self._replicas.size > 1:
            flags = self._replicas.sum(torch.tensor(fits, device=self._device))
            fits = float(flags) / self._replicas.size
        if fits == 1.0:
            return result
        result = None
        release_memory(self._device)
        largest = -(-num_rows // self._replicas.size)
        tried = min(self.size or largest, largest)
        if tried == 1:
            raise torch.OutOfMemoryError(
                f"{self._device} has no memory for a forward and backward pass of one row; train "
                'adapters (mode = "lora"), lower `max_length`, use a smaller model or a larger '
                "device"
            )
        self.size = tried // 2
        self._on_shrink(self.size)
        return None


def release_memory(device: str) -> None:
    """Give cached blocks back to a GPU, whose fragments may be what was in the way."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
