"""The shape of a rung that the sweep pretrains: a Llama with untied embeddings."""

from typing import TYPE_CHECKING

from pydantic import Field

from w2s.spec import Spec

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MODEL_TYPE = "llama"
"""What transformers calls the model that is built."""
VOCABULARY_MULTIPLE = 64
"""Embedding tables are padded to a multiple of this many rows."""


class Architecture(Spec):
    """Widths and depth of a Llama-architecture decoder."""

    hidden_size: int = Field(ge=8)
    """Width of the residual stream."""
    num_layers: int = Field(default=2, ge=1)
    """Decoder layers."""
    num_heads: int = Field(default=2, ge=1)
    """Attention heads; as many key-value heads."""
    head_dim: int = Field(default=32, ge=8)
    """Width of one head; vLLM on CPU serves 32, 64, 80, 96, 112, 128."""
    intermediate_size: int = Field(ge=8)
    """Width of the gated MLP."""
    max_position_embeddings: int = Field(default=64, ge=8)
    """Longest input in tokens."""

    def num_parameters(self, vocabulary_size: int) -> int:
        """Parameters of the built model, both embedding tables included."""
        attention = 4 * self.hidden_size * self.num_heads * self.head_dim
        mlp = 3 * self.hidden_size * self.intermediate_size
        layer = attention + mlp + 2 * self.hidden_size
        tables = 2 * padded(vocabulary_size) * self.hidden_size
        return self.num_layers * layer + tables + self.hidden_size

    def build(self, tokenizer: "PreTrainedTokenizerFast", seed: int) -> "LlamaForCausalLM":
        """A freshly initialised float32 model; the global random state is left as it was."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        vocabulary = tokenizer.get_vocab()
        config = LlamaConfig(
            vocab_size=padded(len(tokenizer)),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.max_position_embeddings,
            initializer_range=0.02,
            tie_word_embeddings=False,
            bos_token_id=vocabulary[str(tokenizer.bos_token)],
            eos_token_id=vocabulary[str(tokenizer.eos_token)],
            pad_token_id=vocabulary[str(tokenizer.pad_token)],
            dtype="float32",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config)


def padded(vocabulary_size: int) -> int:
    """Rows of an embedding table for a vocabulary."""
    return -(-vocabulary_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
