"""Tokenizers of models, and how many tokens a model reads, without loading what weights need.

transformers takes seconds of processor time to tell the tokenizer and config class of any model,
since it loads torch and much else on the way. What `Architecture.build` saves needs none of that.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from w2s.models.architecture import MODEL_TYPE

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")
"""Model types whose first token is not at position 0."""
PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Names of the tokenizer that is all in `tokenizer.json`."""


def load_tokenizer(
    location: str | Path, *, revision: str = "main", trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model.

    Args:
        location: local folder, or hub id.
        revision: commit, tag or branch of a hub id.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        OSError, ValueError: there is none, or none that transformers knows.
    """
    told = _read(location, "tokenizer_config.json")
    if _is_made_here(location) and told.get("tokenizer_class") in PLAIN_CLASSES:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(str(location), trust_remote_code=False)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        str(location), revision=revision, trust_remote_code=trust_remote_code
    )


def load_longest_input(
    location: str | Path, *, revision: str = "main", trust_remote_code: bool = False
) -> int | None:
    """Most tokens a model has positions for, from its config; see `load_tokenizer`.

    Returns:
        None where there is no such limit.
    """
    positions = _read(location, "config.json").get("max_position_embeddings")
    if _is_made_here(location) and isinstance(positions, int) and positions > 0:
        return positions
    from transformers import AutoConfig

    return longest_input(
        AutoConfig.from_pretrained(
            str(location), revision=revision, trust_remote_code=trust_remote_code
        )
    )


def longest_input(config: "PretrainedConfig") -> int | None:
    """Most tokens a model has positions for; None where there is no such limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    # RoBERTa and its kin count positions from pad_token_id + 1.
    if config.model_type in OFFSET_POSITIONS:
        return positions - (config.pad_token_id or 0) - 1
    return positions


def _is_made_here(location: str | Path) -> bool:
    """Whether these are files as `Architecture.build` leaves them: no code, nothing to look up."""
    told = {**_read(location, "tokenizer_config.json"), **_read(location, "config.json")}
    return told.get("model_type") == MODEL_TYPE and "auto_map" not in told


def _read(location: str | Path, file: str) -> dict:
    path = Path(location) / file
    return json.loads(path.read_text()) if path.is_file() else {}
