"""A decoder with its language-model head, for training on text."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from w2s.errors import UserError
from w2s.models.classifier import is_causal


def load_language_model(location: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Load a causal language model in float32 on the CPU.

    Args:
        location: local folder, or hub id.
        revision: commit, tag or branch of a hub id.

    Raises:
        UserError: the model is no decoder, there are no safetensors weights, or some are missing.
    """
    where = {"revision": revision or "main", "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(str(location), **where)
        if not is_causal(config):
            raise UserError(
                f"model {str(location)!r} is no decoder ({config.model_type}): it cannot be "
                "finetuned as a language model"
            )
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(location),
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **where,
        )
    except OSError as error:
        raise UserError(f"cannot load a model from {str(location)!r}: {error}") from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"the weights in {str(location)!r} are no whole language model: {len(missing)} are "
            f"missing, e.g. {missing[0]}"
        )
    return model
