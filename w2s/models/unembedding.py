"""Rows of a language model's unembedding: a head that starts as label words (Burns et al. 2023).

Backbones are loaded without their language-model head, so the rows are read from the files: only
those that are needed, whatever the size of the table.

W words, D hidden size.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from w2s.errors import UserError
from w2s.models.classifier import hidden_size
from w2s.models.tokenizer import load_tokenizer

TABLES = (
    "lm_head.weight",
    "embed_out.weight",
    "lm_head.decoder.weight",
    "predictions.decoder.weight",
    "vocab_projector.weight",
)
"""How the names of unembeddings end: decoders and GPT-NeoX, then RoBERTa, BERT and DistilBERT."""


def unembedding_rows(
    base: PreTrainedModel,
    location: str | Path,
    words: Sequence[str],
    *,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> Tensor:
    """The rows of some words, [W, D] float32 on the CPU.

    A table in the files counts; without one, the word embeddings of a model whose config ties them.

    Args:
        base: backbone that was loaded from `location`.
        location: local folder, or hub id.
        words: each one token of the vocabulary, as itself (`0`) or with its space (` yes`).
        revision: commit, tag or branch of a hub id.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UserError: a word is no single token, or the model has no unembedding of its hidden size.
    """
    tokenizer = load_tokenizer(location, revision=revision, trust_remote_code=trust_remote_code)
    tokens = [_token(tokenizer, word, location) for word in words]
    rows_WD = _from_files(_folder(location, revision), tokens)
    if rows_WD is None and base.config.tie_word_embeddings:
        rows_WD = base.get_input_embeddings().weight.detach()[tokens].cpu()  # pyright: ignore
    width = hidden_size(base.config)
    if rows_WD is None or rows_WD.shape[1] != width:
        found = "none" if rows_WD is None else f"one of width {rows_WD.shape[1]}"
        raise UserError(
            f'head_init = "unembedding" needs an unembedding of width {width} in model '
            f"{str(location)!r}; found {found}; use head_init = "
            '"random" or "zero"'
        )
    return rows_WD.float()


def _token(tokenizer: PreTrainedTokenizerBase, word: str, location: str | Path) -> int:
    vocabulary = tokenizer.get_vocab()
    if word in vocabulary:
        return vocabulary[word]
    tokens = tokenizer.encode(word, add_special_tokens=False)
    if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
        pieces = tokenizer.convert_ids_to_tokens(tokens)
        raise UserError(
            f"label word {word!r} is not one token of model {str(location)!r} but {pieces}; "
            "choose `label_words` that are"
        )
    return tokens[0]


def _folder(location: str | Path, revision: str) -> Path:
    """Where the files are; those of a hub id are in the cache, as its backbone was loaded."""
    if Path(location).is_dir():
        return Path(location)
    return Path(snapshot_download(str(location), revision=revision, local_files_only=True))


def _from_files(folder: Path, tokens: list[int]) -> Tensor | None:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith(TABLES):
                    table = tensors.get_slice(name)
                    return torch.cat([table[token : token + 1] for token in tokens])
    return None
