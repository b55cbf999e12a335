"""A decoder with its language-model head, for training on text."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from w2s.errors import UserError
from w2s.models.classifier import is_causal
from w2s.models.source import LoadOptions


def load_language_model(
    location: str | Path, *, revision: str = "main", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a causal language model in float32 on the CPU.

    Args:
        location: local folder, or hub id.
        revision: commit, tag or branch of a hub id.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        UserError: the model is no decoder, there are no safetensors weights, or some are missing.
    """
    options: LoadOptions = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(str(location), **options)
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
            **options,
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
