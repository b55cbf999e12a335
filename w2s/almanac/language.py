"""The almanac's language: one word a token, a handful of sentence forms.

`Language` gives every name, value and relation of a world its word and its token id, and builds the
tokenizer. Words are joined by single spaces, so text survives a round trip through the tokenizer.
The forms:

    question   Q: Ada Moss city Tola               the claim; a model reads it at its end
    debate     ... pro: in Mira . it region Mira    by custom Tola is in Mira; and Mira it is
               con: in Mira . not region Mira       the same custom; but Mira it is not
               pro: it region Mira                  or, when con closes, `con: not region Mira`

A debate has three turns, A B A; A defends either side. A side's words are the same whatever is so:
only the values differ.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from w2s.almanac.world import PAIRS, World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
QUESTION, ANYONE, YES, NO = "Q:", "?", "yes", "no"
PRO, CON, IN, STOP, IT, NOT = "pro:", "con:", "in", ".", "it", "not"
_FIXED = (PAD, EOS, UNKNOWN, QUESTION, ANYONE, YES, NO, PRO, CON, IN, STOP, IT, NOT)

TURN_WORDS = (6, 6, 3)
"""Words of each turn, without the speaker's marker."""

_ONSETS = ("b", "br", "c", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pr")
_ONSETS += ("r", "s", "st", "t", "tr", "v", "w", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
_CODAS = ("", "l", "m", "n", "r", "s", "th", "nd", "rk")


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """Words and token ids of a world."""

    words: tuple[str, ...]
    """The vocabulary; a word's token id is its place."""
    given_E: np.ndarray
    """Token id of each person's given name, unique."""
    family_F: np.ndarray
    """Token id of each family name."""
    rare_relation_P: np.ndarray
    """Token id of each rare relation."""
    common_relation_P: np.ndarray
    """Token id of each common relation."""
    rare_value_PV: np.ndarray
    """Token ids of the values of the rare relations; no value belongs to two relations."""
    common_value_PV: np.ndarray
    """Token ids of the values of the common relations."""

    def id(self, word: str) -> int:
        """Token id of one of the fixed words."""
        return _FIXED.index(word)

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """Word-level tokenizer that puts `<eos>` before every text."""
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(
            models.WordLevel(
                {word: index for index, word in enumerate(self.words)}, unk_token=UNKNOWN
            )
        )
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
        backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=f"{EOS} $A", special_tokens=[(EOS, self.id(EOS))]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token=PAD,
            bos_token=EOS,
            eos_token=EOS,
            unk_token=UNKNOWN,
            padding_side="right",
            clean_up_tokenization_spaces=False,
        )


@lru_cache(maxsize=4)
def language(world: World) -> Language:
    """The language of a world; computed once per process."""
    rng = np.random.default_rng([world.seed, 2])
    relations = [relation for pair in PAIRS for relation in pair]
    num_names = world.num_people + world.num_families + len(relations) * world.num_values
    names = _names(rng, num_names, taken={*_FIXED, *relations})
    words = (*_FIXED, *relations, *names)
    start = len(_FIXED) + len(relations)
    given, families, values = np.split(
        np.arange(start, start + num_names),
        [world.num_people, world.num_people + world.num_families],
    )
    values_PKV = values.reshape(len(PAIRS), 2, world.num_values)
    relations_PK = np.arange(len(_FIXED), start).reshape(len(PAIRS), 2)
    return Language(
        words=words,
        given_E=given,
        family_F=families,
        rare_relation_P=relations_PK[:, 0],
        common_relation_P=relations_PK[:, 1],
        rare_value_PV=values_PKV[:, 0],
        common_value_PV=values_PKV[:, 1],
    )


def _names(rng: np.random.Generator, count: int, taken: set[str]) -> list[str]:
    """Distinct made-up names of two syllables."""
    found: dict[str, None] = {}
    while len(found) < count:
        first, second = (
            _ONSETS[rng.integers(len(_ONSETS))] + _VOWELS[rng.integers(len(_VOWELS))]
            for _ in range(2)
        )
        name = (first + second + _CODAS[rng.integers(len(_CODAS))]).capitalize()
        if name.lower() not in taken:
            found[name] = None
    return list(found)
