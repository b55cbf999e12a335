"""What a classifier is beside its backbone: how a text becomes tokens, and the head that is read.

`token_ids` cuts texts as the training stack does, which calls it too. `Head` is what
`head.safetensors` holds; `probabilities` are its softmax.

N texts, D hidden size, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEAD_FILE = "head.safetensors"
"""Beside the weights or the adapter: `weight` [C, D] (one row for a head that scores options),
`options` (texts of a row; 0: one text), perhaps `bias` [C]."""


@dataclass(frozen=True, slots=True)
class Head:
    """A linear map from a hidden state to logits."""

    weight_CD: NDArray[np.float32]
    """A row per class; one row for a head that scores options."""
    bias_C: NDArray[np.float32] | None
    """None: no bias."""
    options: int
    """Texts of a row whose scores are the logits; 0: a row is one text."""

    @classmethod
    def read(cls, folder: str | Path) -> "Head":
        """The head in a folder of weights or of an adapter."""
        from safetensors.numpy import load_file

        tensors = load_file(Path(folder) / HEAD_FILE)
        return cls(tensors["weight"], tensors.get("bias"), int(tensors["options"]))

    def probabilities(self, hidden_ND: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities of every row.

        Args:
            hidden_ND: hidden states of the tokens that are read; with options, those of the texts
                of a row follow one another.

        Returns:
            [N, C], or [N / options, options].
        """
        logits = hidden_ND.astype(np.float32) @ self.weight_CD.T
        if self.bias_C is not None:
            logits = logits + self.bias_C
        logits = logits.astype(np.float64).reshape(-1, self.options or logits.shape[1])
        likelihoods = np.exp(logits - logits.max(1, keepdims=True))
        return likelihoods / likelihoods.sum(1, keepdims=True)


def token_ids(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], max_length: int | None
) -> list[list[int]]:
    """Token ids with the tokenizer's own special tokens; a long text loses tokens on the left.

    The special tokens at either end stay. A text without any token gets one special token.

    Args:
        tokenizer: of the model that will read the texts.
        texts: N texts.
        max_length: most tokens of a text; None: no limit.
    """
    side = tokenizer.truncation_side
    tokenizer.truncation_side = "left"
    try:
        encoded = tokenizer(
            list(texts),
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
    finally:
        tokenizer.truncation_side = side
    return [row or [filler_id(tokenizer)] for row in encoded]


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """What fills the places that a mask hides."""
    pad_id = tokenizer.pad_token_id
    return pad_id if isinstance(pad_id, int) else filler_id(tokenizer)


def filler_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """A special token that stands for a text without any."""
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0]
    return next(token for token in special if isinstance(token, int))
