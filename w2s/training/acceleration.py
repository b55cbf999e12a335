"""What makes a large model faster or smaller in memory while it trains, block by block.

`accelerate` compiles the blocks of a model and has them keep their inputs alone for the backward
pass. What a block computes stays the same, up to rounding.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from w2s.models.read_token import block_list
from w2s.types import Acceleration


def accelerate(model: nn.Module, acceleration: Acceleration) -> None:
    """Change the blocks of a model, in place; names of parameters stay as they are.

    Args:
        model: with a list of blocks.
        acceleration: what to do.
    """
    blocks = block_list(model)
    if acceleration.activation_checkpointing:
        for block in blocks:
            _keep_inputs_alone(block)
    if acceleration.compile:
        # The last block of a decoder has hooks inside, which narrow it to the token that is read.
        for block in [*blocks][:-1]:
            block.compile(dynamic=True)


def _keep_inputs_alone(block: nn.Module) -> None:
    """Compute what is inside a block once more in the backward pass. No block draws numbers."""
    block.forward = partial(
        checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
    )
