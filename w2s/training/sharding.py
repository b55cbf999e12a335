"""Weights, gradients and optimizer state shared out over a gang (FSDP2), or whole on each worker.

A loop calls `place` once, and what needs to know how the weights lie is here: `clip_gradients`,
`full_state` and `load_full_state` for the best checkpoint and for weights that are kept, `whole`
and `laid_out_like` for a tensor of them. On a single worker, and with replicas that each hold the
whole model, they do what torch does.

Blocks are shared out one by one, the rest of the backbone together. The head of a classifier stays
whole on every worker: it is small, computes in float32, and may have a hook on its gradient.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from w2s.models.classifier import Classifier
from w2s.models.read_token import block_list
from w2s.training.parallel import Replicas

Precision = Literal["fp32", "bf16"]


def place(
    model: nn.Module, *, replicas: Replicas, device: str, precision: Precision
) -> AbstractContextManager[object]:
    """Bring a model to its device, in evaluation mode, shared out where the replicas do so.

    Args:
        model: a classifier or language model, equal on every replica; one that is shared out
            already stays as it is.
        replicas: the group that trains it; all of them call this.
        device: of this replica.
        precision: of forward passes; weights, gradients and sums over replicas are float32.

    Returns:
        The context in which its forward passes run.
    """
    model.eval()
    if not replicas.sharded:
        nn.Module.to(model, device)
        return autocast_to(device, precision)
    if not isinstance(model, FSDPModule):
        _share_out(model, device, precision)
    # Weights are cast when they are gathered.
    return nullcontext()


def autocast_to(device: str, precision: Precision) -> AbstractContextManager[object]:
    """Context of forward passes of a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, replicas: Replicas) -> None:
    """Scale gradients down to a global norm: that of the whole model, wherever its parts lie."""
    if not replicas.sharded:
        nn.utils.clip_grad_norm_(parameters, max_norm)
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    parts = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    entire = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    squares = replicas.sum(nn.utils.get_total_norm(parts).square())
    if entire:
        squares = squares + nn.utils.get_total_norm(entire).square()
    scale = (max_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in [*parts, *entire]:
        gradient.mul_(scale)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that require a gradient."""
    return (pair for pair in model.named_parameters() if pair[1].requires_grad)


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Whole copies on the CPU of what is trained, by name; all replicas ask together."""
    return {name: whole(value) for name, value in trained(model)}


def load_full_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put what `full_state` returned back in place."""
    with torch.no_grad():
        for name, value in trained(model):
            value.copy_(laid_out_like(state[name], value))


def whole(tensor: Tensor) -> Tensor:
    """A whole copy of a tensor on the CPU; of a shared-out one all replicas ask together."""
    tensor = tensor.detach()
    gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered.to("cpu", copy=True)


def laid_out_like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor on the device of another, shared out as that one is if it has its shape."""
    moved = tensor.to(model.device, copy=True)
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return moved
    return distribute_tensor(moved, model.device_mesh, model.placements, src_data_rank=None)


def _share_out(model: nn.Module, device: str, precision: Precision) -> None:
    assert dist.group.WORLD is not None
    options: dict[str, Any] = {
        "mesh": DeviceMesh.from_group(dist.group.WORLD, torch.device(device).type),
        # Between two passes the parameters are always the parts, those of the root too.
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if precision == "bf16" else None,
            reduce_dtype=torch.float32,
        ),
    }
    kept: set[nn.Parameter] = set()
    backbone = model
    if isinstance(model, Classifier):
        backbone = model.backbone
        kept = set(model.head.to(device).parameters())
    for block in block_list(backbone):
        fully_shard(block, **options)
    fully_shard(model, **options, ignored_params=kept)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Loops divide by the rows of the whole update: gradients are sums over replicas.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
