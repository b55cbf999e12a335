"""Heads that read a part of a model: some of the hidden dimensions, or an earlier layer.

Members of a bagged ensemble differ in such parts (Ho 1998; Sang et al. 2024, bagging).

D hidden size, C classes.
"""

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from w2s.errors import UserError
from w2s.models.classifier import Classifier
from w2s.models.read_token import block_list


def drawn(width: int, share: float, seed: int) -> Tensor:
    """Which dimensions are read: [D], 1 for floor(share * D) of them, at least one, else 0."""
    # A share such as 0.7 of 10 is 7, not the 6 that rounding errors make of it.
    number = max(1, math.floor(share * width + 1e-9))
    chosen = torch.randperm(width, generator=torch.Generator().manual_seed(seed))[:number]
    mask_D = torch.zeros(width)
    mask_D[chosen] = 1
    return mask_D


def narrow_head(classifier: Classifier, share: float, seed: int) -> None:
    """Have a head read some dimensions, in place: the weights of the others are 0 and stay 0.

    No gradient reaches the model through them either.
    """
    weight_CD = classifier.head.weight
    mask_D = drawn(weight_CD.shape[1], share, seed)
    with torch.no_grad():
        weight_CD.mul_(mask_D.to(weight_CD.device))
    weight_CD.register_hook(lambda gradient_CD: gradient_CD * mask_D.to(gradient_CD.device))


def cut_after(backbone: PreTrainedModel, layer: int) -> None:
    """Take the blocks after the `layer`-th off, in place; its last norm stays.

    Config and weights stay of one piece, so the model is saved and loaded as any other.

    Raises:
        UserError: there are fewer blocks.
    """
    blocks, config = block_list(backbone), backbone.config
    if not 1 <= layer <= len(blocks):
        raise UserError(
            f"head_layer is {layer}, but a {config.model_type} model of {len(blocks)} blocks has "
            f"1 to {len(blocks)}, and -1 for the last"
        )
    del blocks[layer:]
    config.num_hidden_layers = layer
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layer]
