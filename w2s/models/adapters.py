"""Low-rank adapters in a backbone (Hu et al. 2021): put in, saved, and merged away.

A linear map W x becomes W x + (alpha / rank) B A x, in which only A and B are trained; B starts at
zero, so an adapted backbone computes what it did before.
"""

from pathlib import Path

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from w2s.errors import UserError

ADAPTER = "default"


def add_adapters(
    backbone: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    target_modules: tuple[str, ...],
    seed: int,
) -> None:
    """Wrap linear maps of the blocks in place; only the adapters then require a gradient.

    The weights of the backbone are read and never written, so they may be another's too.

    Args:
        backbone: decoder or encoder.
        rank: of the update of a matrix.
        alpha: the update is scaled by alpha / rank.
        target_modules: last parts of the names of the maps; empty: all linear maps of the blocks.
        seed: of A; equal on every device. The global random state is left as it was.

    Raises:
        UserError: `target_modules` names a module that is no linear map of the blocks.
    """
    linear = {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and _in_block(backbone, name)
    }
    kinds = {name.rpartition(".")[2] for name in linear}
    unknown = sorted(set(target_modules) - kinds)
    if unknown:
        raise UserError(
            f"lora.target_modules names {unknown[0]!r}, which is no linear map in the blocks of a "
            f"{backbone.config.model_type} model; there are {', '.join(sorted(kinds))}"
        )
    chosen = [
        name for name in linear if not target_modules or name.rpartition(".")[2] in target_modules
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(
            PeftConfig(
                r=rank,
                lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  # a factor
                target_modules=chosen,
                fan_in_fan_out=isinstance(linear[chosen[0]], Conv1D),
            ),
            backbone,
            ADAPTER,
        )


def save_adapters(backbone: PreTrainedModel, folder: Path) -> None:
    """Write the adapters as peft does: `adapter_config.json` and `adapter_model.safetensors`.

    Names are those of the modules of the language model around the backbone, so that peft and
    serving engines put them into a model with its language-model head.
    """
    adapted = {
        name: module for name, module in backbone.named_modules() if isinstance(module, LoraLayer)
    }
    some = next(iter(adapted.values()))
    rank, alpha = some.r[ADAPTER], some.lora_alpha[ADAPTER]
    prefix = f"base_model.model.{backbone.base_model_prefix}."
    tensors = {
        f"{prefix}{name}.{part}.weight": getattr(module, part)[ADAPTER].weight
        for name, module in adapted.items()
        for part in ("lora_A", "lora_B")
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    PeftConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted({name.rpartition(".")[2] for name in adapted}),
        fan_in_fan_out=isinstance(some.get_base_layer(), Conv1D),
        inference_mode=True,
    ).save_pretrained(str(folder))


def merge_adapters(backbone: PreTrainedModel) -> None:
    """Put plain linear maps in the place of adapted ones, in place; without adapters, nothing.

    The merged weights are new tensors: those that the backbone was read from stay as they are.
    """
    for module in list(backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LoraLayer):
                linear = child.get_base_layer()
                merged = linear.weight.detach() + child.get_delta_weight(ADAPTER)  # pyright: ignore
                linear.weight = nn.Parameter(merged.detach())
                setattr(module, name, linear)


def _in_block(backbone: PreTrainedModel, name: str) -> bool:
    """Whether a module lies in a list of blocks, not beside it."""
    parents = name.split(".")[:-1]
    return any(
        isinstance(backbone.get_submodule(".".join(parents[:depth])), nn.ModuleList)
        for depth in range(1, len(parents) + 1)
    )
