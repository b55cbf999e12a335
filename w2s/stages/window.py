"""How much a served model reads at once, counted in its own tokens, and texts that fit into it."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from w2s.errors import UserError
from w2s.models.remote import RemoteModel
from w2s.stages.base import StageContext
from w2s.stages.models import Model, load_options, model_location


@dataclass(frozen=True, slots=True)
class Window:
    """A model's context."""

    count: Callable[[str], int]
    """Tokens of a text, special ones included."""
    max_tokens: int
    """Most tokens of a prompt together with what is scored or written after it."""

    def fits(self, text: str, num_after: int = 0) -> bool:
        """Whether a prompt leaves room for so many tokens after it."""
        return self.count(text) + num_after <= self.max_tokens

    def without_beginning(self, text: str, build: Callable[[str], str], num_after: int = 0) -> str:
        """A prompt that fits: where it is too long, the text in it loses words at its beginning.

        Args:
            text: what may be cut.
            build: makes the prompt of the text.
            num_after: tokens that follow the prompt.

        Raises:
            UserError: the prompt is too long even without the text.
        """
        least = self.count(build(""))
        if least + num_after > self.max_tokens:
            raise UserError(
                f"a prompt takes {least} tokens without its row and leaves {num_after} for what "
                f"follows; the model reads {self.max_tokens}: shorten the templates or take a "
                "model that reads more"
            )
        while (total := self.count(build(text))) + num_after > self.max_tokens:
            text = cut_beginning(text, total + num_after - self.max_tokens, total - least)
        return build(text)


def cut_beginning(text: str, num_tokens: int, own_tokens: int) -> str:
    """The text without the characters that so many of its own tokens have on average.

    What is left begins with a word. It is shorter, but may still be too long: tokens differ.
    """
    cut = math.ceil(len(text) * min(1.0, num_tokens / max(1, own_tokens)))
    return text[text.find(" ", cut - 1) + 1 :] if " " in text[cut - 1 :] else text[cut:]


def window_of(model: Model, context: StageContext) -> Window:
    """The context of a model, from its config and tokenizer.

    Nobody tells that of a remote model: it counts words, and has no limit.
    """
    if isinstance(model, RemoteModel):
        return Window(lambda text: len(text.split()), sys.maxsize)
    from w2s.models.tokenizer import load_longest_input, load_tokenizer

    location, options = model_location(model, context), load_options(model)
    tokenizer = cast(Any, load_tokenizer(location, **options))

    def count(text: str) -> int:
        return len(tokenizer(text, verbose=False)["input_ids"])

    limits = [load_longest_input(location, **options), tokenizer.model_max_length]
    # A server that echoes a prompt with its label makes room for one token more.
    return Window(count, min(limit for limit in limits if limit is not None) - 1)
