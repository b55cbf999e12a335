"""Tiny random models of many families with a word-level tokenizer, of sizes that vLLM takes."""

from pathlib import Path
from typing import Any

import torch

NUM_WORDS = 200
WORDS = ("<pad>", "<eos>", "<unk>", "Q:", "pro:", "con:", *(f"w{i}" for i in range(NUM_WORDS)))
SHAPE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "initializer_range": 0.3,
}
GROUPED = {**SHAPE, "num_key_value_heads": 1, "head_dim": 32}
DECODERS: dict[str, dict[str, Any]] = {
    "gemma": GROUPED,
    "gpt2": {**SHAPE, "n_inner": 128},
    "gpt_neox": SHAPE,
    "llama": GROUPED,
    "mistral": GROUPED,
    "opt": {**SHAPE, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "qwen2": {**SHAPE, "num_key_value_heads": 1},
    "qwen3": GROUPED,
}
ENCODERS: dict[str, dict[str, Any]] = {"bert": SHAPE, "roberta": {**SHAPE, "pad_token_id": 0}}


def save_tokenizer(folder: Path, family: str = "llama") -> None:
    """Words, split at white space; Qwen2 has a tokenizer of its own, which takes characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if family == "qwen2":
        characters = {word: index for index, word in enumerate([*WORDS[:3], *"Ġw0123456789"])}
        tokenizer = Tokenizer(models.BPE(vocab=characters, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        words = {word: index for index, word in enumerate(WORDS)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_language_model(folder: Path, family: str = "llama", seed: int = 0) -> None:
    """A random language model of 0.1 M parameters with its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **DECODERS[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, family)


def save_backbone(folder: Path, family: str, seed: int = 0) -> None:
    """A random bare model with its tokenizer."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**DECODERS, **ENCODERS}[family])
    AutoModel.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, family)


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 60 words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 61, (count,), generator=generator).tolist()
    return [
        " ".join(f"w{i}" for i in torch.randint(0, NUM_WORDS, (n,), generator=generator).tolist())
        for n in lengths
    ]
