"""How much a served model reads at once, counted in its own tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from w2s.stages.base import StageContext
from w2s.stages.models import Model, model_location, revision_of


@dataclass(frozen=True, slots=True)
class Window:
    """A model's context."""

    count: Callable[[str], int]
    """Tokens of a text, special ones included."""
    max_tokens: int
    """Most tokens of a prompt together with what is scored or written after it."""


def window_of(model: Model, context: StageContext) -> Window:
    """The context of a model, from its config and tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    from w2s.models.classifier import longest_input

    location = str(model_location(model, context))
    revision = revision_of(model) or "main"
    tokenizer = cast(Any, AutoTokenizer.from_pretrained(location, revision=revision))
    config = AutoConfig.from_pretrained(location, revision=revision)

    def count(text: str) -> int:
        return len(tokenizer(text, verbose=False)["input_ids"])

    limits = [longest_input(config), tokenizer.model_max_length]
    # A server that echoes a prompt with its label makes room for one token more.
    return Window(count, min(limit for limit in limits if limit is not None) - 1)
