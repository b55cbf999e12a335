"""Computing the last block of a decoder for the one token that is read.

A classification head reads one token of the last hidden state. In the last block, all other tokens
matter only as keys and values; what is done to each token by itself (queries, output projection,
MLP) is needed for that one alone. Leaving the rest out changes neither logits nor gradients, and
saves most of the block: with two blocks about a third of the training's arithmetic, with twelve a
twentieth.

B rows, T tokens, D channels in, E channels out.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

LLAMA_LIKE = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
TOKENWISE = {
    "gemma": LLAMA_LIKE,
    "gemma2": LLAMA_LIKE,
    "gpt2": ("attn.c_proj", "mlp"),
    "gpt_neox": ("attention.dense", "mlp"),
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
}
"""By model type, the parts of a block that treat each token by itself and feed only that token's
own hidden state. A type that is not here is computed in full."""


def block_list(backbone: nn.Module) -> nn.ModuleList:
    """The blocks of a transformer, in order."""
    return next(module for module in backbone.modules() if isinstance(module, nn.ModuleList))


class ReadToken:
    """Narrows the tokenwise parts of a backbone's last block to the tokens set by `at`."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        """Hook into the backbone; its parameters and their names stay as they are."""
        self._places: tuple[Tensor, Tensor] | None = None
        for name in TOKENWISE.get(backbone.config.model_type, ()):
            part = block_list(backbone)[-1].get_submodule(name)
            part.register_forward_pre_hook(self._narrow)
            part.register_forward_hook(self._widen)

    def at(self, rows_B: Tensor, tokens_B: Tensor) -> None:
        """Say which token of each row the next forward pass is for."""
        self._places = (rows_B, tokens_B)

    def _narrow(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        """[B, T, D] -> [B, 1, D]."""
        assert self._places is not None
        (hidden_BTD,) = args
        self._num_tokens = hidden_BTD.shape[1]
        return (hidden_BTD[self._places].unsqueeze(1),)

    def _widen(self, module: nn.Module, args: tuple[Tensor], output_B1E: Tensor) -> Tensor:
        """[B, 1, E] -> [B, T, E], zeros where nothing is read."""
        assert self._places is not None
        rows, _, channels = output_B1E.shape
        whole_BTE = output_B1E.new_zeros(rows, self._num_tokens, channels)
        whole_BTE[self._places] = output_B1E.squeeze(1)
        return whole_BTE
