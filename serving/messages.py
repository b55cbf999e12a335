"""What goes to a model and what comes back: `Sampling` settings and a `Completion`.

`ServingSpec` is the base of this layer's frozen pydantic models. `seed_of` turns the coordinates of
a request (row, seed, side, turn) into the seed that the sampler gets.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SEED_BITS = 31
"""Seeds fit a signed 32-bit integer, the narrowest type among OpenAI-compatible servers."""


class ServingSpec(BaseModel, frozen=True):
    """A frozen model that refuses unknown fields."""

    model_config = ConfigDict(
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class Sampling(ServingSpec, frozen=True):
    """How tokens are drawn; the seed is not here, each prompt has its own."""

    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the logits; 0 takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Probability mass of the tokens that may be drawn."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens after which a completion ends."""
    min_tokens: int = Field(default=0, ge=0)
    """Tokens before which neither the end-of-text token nor a stop string ends a completion."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are not part of its text."""
    json_schema: str | None = None
    """JSON schema, as text, that a completion must obey; None: free text."""

    @model_validator(mode="after")
    def _min_is_not_above_max(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}; lower it"
            )
        return self


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after one prompt."""

    text: str
    """The text after the prompt, without the stop string."""
    num_tokens: int
    """Tokens drawn."""
    finish_reason: str
    """`length` at `max_tokens`, `stop` at the end-of-text token or a stop string."""
    num_prompt_tokens: int = 0
    """Tokens of the prompt; 0 where the server does not say."""
    num_cached_tokens: int = 0
    """Tokens of the prompt that the server's prefix cache had read already."""


def seed_of(*coordinates: str | int) -> int:
    """Seed of a request, from what the request is: the same in every process and run.

    Args:
        coordinates: what tells this request from the others, such as row id, seed, side and turn.

    Returns:
        An integer in [0, 2**31).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in coordinates)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - SEED_BITS)
