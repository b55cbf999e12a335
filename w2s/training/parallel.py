"""Data-parallel replicas of one training: what the loops need from the worker group they run in.

A loop is written for `Replicas`. Alone, that is `Replicas()`; inside a worker group it is built
from an initialised `torch.distributed` process group (gloo on CPU, nccl on GPU). Each replica takes
its slice of an update's rows, normalises by the size of the whole update, and `sum_gradients` adds
up what the replicas found, so one and several workers train alike.

Replicas hold the whole model each, or share it out (`sharded`): then its weights, gradients and
optimizer state are in parts on the workers (`w2s.training.sharding`), and every forward and
backward pass is one that all of them make together.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Replicas:
    """A replica's place among those that train the same model."""

    rank: int = 0
    size: int = 1
    shards: bool = False
    """Whether models that train are shared out over the replicas."""

    @classmethod
    def current(cls) -> "Replicas":
        """Replicas of the initialised process group, or a single one."""
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), size=dist.get_world_size())
        return cls()

    @property
    def sharded(self) -> bool:
        """Whether there is anyone to share a model out with."""
        return self.shards and self.size > 1

    def slice(self, count: int) -> slice:
        """This replica's contiguous share of `count` rows."""
        start = count * self.rank // self.size
        return slice(start, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Elementwise sum over replicas, in place; returns the tensor."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over replicas, in one message per dtype.

        Gradients of tensors that are shared out are such sums already.
        """
        if self.size == 1:
            return
        from torch.distributed.tensor import DTensor  # a second of imports, for several replicas

        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            offset = 0
            for gradient in gradients:
                gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
                offset += gradient.numel()

    def gather_rows(self, local: Tensor, count: int) -> Tensor:
        """All replicas' rows in order: the inverse of `slice`.

        Args:
            local: [rows of this replica, ...].
            count: rows over all replicas.

        Returns:
            [count, ...], equal on every replica.
        """
        if self.size == 1:
            return local
        whole = torch.zeros((count, *local.shape[1:]), dtype=local.dtype, device=local.device)
        whole[self.slice(count)] = local
        dist.all_reduce(whole)
        return whole
