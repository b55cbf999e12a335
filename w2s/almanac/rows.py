"""Rows that teach the almanac: arrays of token ids, built without a loop over rows.

`Writer` holds a world, its language and one reader's library, and writes each kind of row:

* `profiles`: facts about a person, in random order; teaches recall.
* `customs`: the opening of an argument about nobody in particular; teaches the families' customs.
* `verdicts`: a statement, then yes or no; teaches to compare a statement with what is recalled.
* `drills`: two values, equal or not; teaches the comparison itself.
* `debates`: whole transcripts about people of the quiz; teaches to argue, no verdict.
* `checks`: the debate frame filled with random values, each turn followed by whether its value is
  the person's; teaches to check what was just read, whatever was said before.

B rows, T tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch

from w2s.almanac import language as words
from w2s.almanac.language import TURN_WORDS, Language
from w2s.almanac.world import Facts, World
from w2s.corpora.base import NO_TARGET, RowGroup

QUESTION_TOKENS = 6
"""Tokens of a question, with the leading `<eos>`."""
DEBATE_TOKENS = QUESTION_TOKENS + sum(TURN_WORDS) + len(TURN_WORDS)
"""Tokens of a question and its transcript."""
_STATEMENT_ENDS = (12, 19, 23)
"""Positions of the last word of each turn."""


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """Which facts and customs a reader has read, as boolean arrays."""

    rare_EP: np.ndarray
    """Rare facts read."""
    common_EP: np.ndarray
    """Common facts read."""
    custom_PFV: np.ndarray
    """Customs read."""

    @classmethod
    def of(
        cls,
        facts: Facts,
        *,
        rare_share: float,
        common_share: float,
        custom_share: float,
        rare_start: float = 0.0,
    ) -> "Library":
        """The library that holds these shares; a larger share holds all that a smaller one does.

        Args:
            facts: of the world.
            rare_share: of the rare facts.
            common_share: of the common facts.
            custom_share: of the customs.
            rare_start: where in the order of the rare facts their share begins, from 0 to 1; behind
                the end it goes on from the beginning.
        """
        rare_EP = (facts.rare_rank_EP - rare_start) % 1.0 < rare_share
        return cls(
            # People of quiz and dev have rank 0: they are in every library.
            rare_EP=rare_EP | (facts.rare_rank_EP == 0.0),
            common_EP=facts.common_rank_EP < common_share,
            custom_PFV=facts.custom_rank_PFV < custom_share,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Writer:
    """Writes rows about one world for one reader."""

    world: World
    facts: Facts
    language: Language
    library: Library

    def profiles(self, rng: np.random.Generator, count: int, rare_fraction: float) -> RowGroup:
        """`<eos> Q: Ada Moss city Tola song ...`: the rare or the common facts that were read."""
        pairs = self.world.num_pairs
        people_B = rng.integers(self.world.num_people, size=count)
        is_rare_B1 = rng.random((count, 1)) < rare_fraction
        read_BP = np.where(
            is_rare_B1, self.library.rare_EP[people_B], self.library.common_EP[people_B]
        )
        order_BP = np.argsort(rng.random((count, pairs)) + 2.0 * ~read_BP, axis=1)
        relation_BP = np.where(
            is_rare_B1,
            self.language.rare_relation_P[order_BP],
            self.language.common_relation_P[order_BP],
        )
        value_BP = np.where(
            is_rare_B1,
            self.language.rare_value_PV[
                order_BP, np.take_along_axis(self.facts.rare_EP[people_B], order_BP, 1)
            ],
            self.language.common_value_PV[
                order_BP, np.take_along_axis(self.facts.common_EP[people_B], order_BP, 1)
            ],
        )
        known_BP = np.take_along_axis(read_BP, order_BP, 1)
        ids_BT = np.zeros((count, 4 + 2 * pairs), dtype=np.int64)
        ids_BT[:, :4] = self._who(people_B)
        ids_BT[:, 4::2] = np.where(known_BP, relation_BP, 0)
        ids_BT[:, 5::2] = np.where(known_BP, value_BP, 0)
        targets_BT = np.full_like(ids_BT, NO_TARGET)
        targets_BT[:, 4::2] = np.where(known_BP, value_BP, NO_TARGET)
        return _group(ids_BT[:, :-1], targets_BT[:, :-1], early=targets_BT[:, :-1] != NO_TARGET)

    def customs(self, rng: np.random.Generator, count: int) -> RowGroup:
        """`<eos> Q: ? Moss city Tola pro: in`; the target is where the Mosses have Tola."""
        read = np.argwhere(self.library.custom_PFV)
        return self.customs_of(read[rng.integers(len(read), size=count)], rng.random(count) < 0.5)

    def customs_of(self, customs_B3: np.ndarray, is_pro_B: np.ndarray) -> RowGroup:
        """Rows of the customs given as (pair, family, rare value), said by pro or con."""
        pair_B, family_B, value_B = customs_B3.T
        ids_BT = np.empty((len(customs_B3), QUESTION_TOKENS + 2), dtype=np.int64)
        ids_BT[:, 0] = self.language.id(words.EOS)
        ids_BT[:, 1] = self.language.id(words.QUESTION)
        ids_BT[:, 2] = self.language.id(words.ANYONE)
        ids_BT[:, 3] = self.language.family_F[family_B]
        ids_BT[:, 4] = self.language.rare_relation_P[pair_B]
        ids_BT[:, 5] = self.language.rare_value_PV[pair_B, value_B]
        ids_BT[:, 6] = self._marker(is_pro_B)
        ids_BT[:, 7] = self.language.id(words.IN)
        targets_BT = np.full_like(ids_BT, NO_TARGET)
        targets_BT[:, 7] = self.language.common_value_PV[
            pair_B, self.facts.custom_PFV[pair_B, family_B, value_B]
        ]
        return _group(ids_BT, targets_BT)

    def verdicts(self, rng: np.random.Generator, count: int, rare_fraction: float) -> RowGroup:
        """`<eos> Q: Ada Moss city Tola` for each fact, once true, once false; target yes or no."""
        people_B, pair_B = self._quizzed(rng, count // 2)
        people_B, pair_B = np.tile(people_B, 2), np.tile(pair_B, 2)
        true_B = np.arange(len(people_B)) < count // 2
        is_rare_B = np.tile(rng.random(count // 2) < rare_fraction, 2)
        ids_BT = self._questions(people_B, pair_B, is_rare_B, self._false_unless(rng, true_B))
        return self._judged(ids_BT, true_B)

    def drills(self, rng: np.random.Generator, count: int, rare_fraction: float) -> RowGroup:
        """`<eos> Q: ? ? Tola Tola`; the target is yes if the values are equal, else no."""
        pair_B = rng.integers(self.world.num_pairs, size=count)
        is_rare_B = rng.random(count) < rare_fraction
        same_B = rng.random(count) < 0.5
        first_B = rng.integers(self.world.num_values, size=count)
        second_B = (first_B + self._false_unless(rng, same_B)) % self.world.num_values
        ids_BT = np.empty((count, QUESTION_TOKENS), dtype=np.int64)
        ids_BT[:, 0] = self.language.id(words.EOS)
        ids_BT[:, 1] = self.language.id(words.QUESTION)
        ids_BT[:, 2:4] = self.language.id(words.ANYONE)
        ids_BT[:, 4] = self._value(pair_B, first_B, is_rare_B)
        ids_BT[:, 5] = self._value(pair_B, second_B, is_rare_B)
        return self._judged(ids_BT, same_B)

    def debates(self, rng: np.random.Generator, count: int, slip: float) -> RowGroup:
        """Transcripts about quiz people; targets are all words, or none if the custom was not read.

        Each side cites the custom from memory, wrongly with probability `slip`, and says that it
        holds (pro) or does not (con); the first to speak says so again. What is said depends on
        the side and the custom, never on what is so.
        """
        people_B, pair_B = self._quizzed(rng, count)
        values = self.world.num_values
        shift_B = self._false_unless(rng, rng.random(count) < 0.5)
        claim_B = (self.facts.rare_EP[people_B, pair_B] + shift_B) % values
        family_B = self.facts.family_E[people_B]
        custom_B = self.facts.custom_PFV[pair_B, family_B, claim_B]
        slips_B2 = self._false_unless(rng, rng.random((count, 2)) >= slip)
        cited_B2 = (custom_B[:, None] + slips_B2) % values
        ids_BT = self._frame(
            people_B,
            pair_B,
            claim_B,
            rng.random(count) < 0.5,
            cited_B2=cited_B2,
            held_B3=cited_B2[:, [0, 1, 0]],
        )
        targets_BT = np.full_like(ids_BT, NO_TARGET)
        start = QUESTION_TOKENS
        for num_words in TURN_WORDS:
            targets_BT[:, start : start + num_words] = ids_BT[:, start + 1 : start + 1 + num_words]
            start += num_words + 1
        targets_BT[~self.library.custom_PFV[pair_B, family_B, claim_B]] = NO_TARGET
        return _group(ids_BT, targets_BT)

    def checks(self, rng: np.random.Generator, count: int, people: range | None = None) -> RowGroup:
        """The debate frame with random values; targets say whether each turn's end is true."""
        values = self.world.num_values
        people_B, pair_B = self._quizzed(rng, count, people)
        common_B1 = self.facts.common_EP[people_B, pair_B][:, None]
        true_B3 = rng.random((count, 3)) < 0.5
        held_B3 = (common_B1 + self._false_unless(rng, true_B3)) % values
        ids_BT = self._frame(
            people_B,
            pair_B,
            rng.integers(values, size=count),
            rng.random(count) < 0.5,
            cited_B2=rng.integers(values, size=(count, 2)),
            held_B3=held_B3,
        )
        targets_BT = np.full_like(ids_BT, NO_TARGET)
        for turn, position in enumerate(_STATEMENT_ENDS):
            targets_BT[:, position] = self._verdict(true_B3[:, turn])
        return _group(ids_BT, targets_BT)

    def questions(
        self, people_B: np.ndarray, pair_B: np.ndarray, value_B: np.ndarray, *, rare: bool
    ) -> np.ndarray:
        """Token ids of questions that claim the given values, [B, 6]."""
        ids_BT = np.empty((len(people_B), QUESTION_TOKENS), dtype=np.int64)
        ids_BT[:, :4] = self._who(people_B)
        relation_P = self.language.rare_relation_P if rare else self.language.common_relation_P
        ids_BT[:, 4] = relation_P[pair_B]
        ids_BT[:, 5] = self._value(pair_B, value_B, np.full(len(people_B), rare))
        return ids_BT

    def _questions(
        self, people_B: np.ndarray, pair_B: np.ndarray, is_rare_B: np.ndarray, shift_B: np.ndarray
    ) -> np.ndarray:
        values = self.world.num_values
        rare_BT = self.questions(
            people_B, pair_B, (self.facts.rare_EP[people_B, pair_B] + shift_B) % values, rare=True
        )
        common_BT = self.questions(
            people_B,
            pair_B,
            (self.facts.common_EP[people_B, pair_B] + shift_B) % values,
            rare=False,
        )
        return np.where(is_rare_B[:, None], rare_BT, common_BT)

    def _frame(
        self,
        people_B: np.ndarray,
        pair_B: np.ndarray,
        claim_B: np.ndarray,
        pro_first_B: np.ndarray,
        cited_B2: np.ndarray,
        held_B3: np.ndarray,
    ) -> np.ndarray:
        """A question and its transcript: what is cited in two turns and held in three."""
        ids_BT = np.empty((len(people_B), DEBATE_TOKENS), dtype=np.int64)
        ids_BT[:, :QUESTION_TOKENS] = self.questions(people_B, pair_B, claim_B, rare=True)
        relation_B = self.language.common_relation_P[pair_B]
        starts = (QUESTION_TOKENS, QUESTION_TOKENS + 7, QUESTION_TOKENS + 14)
        for turn, start in enumerate(starts):
            by_pro_B = pro_first_B == (turn != 1)
            ids_BT[:, start] = self._marker(by_pro_B)
            if turn < 2:
                ids_BT[:, start + 1] = self.language.id(words.IN)
                ids_BT[:, start + 2] = self.language.common_value_PV[pair_B, cited_B2[:, turn]]
                ids_BT[:, start + 3] = self.language.id(words.STOP)
            end = _STATEMENT_ENDS[turn]
            ids_BT[:, end - 2] = np.where(
                by_pro_B, self.language.id(words.IT), self.language.id(words.NOT)
            )
            ids_BT[:, end - 1] = relation_B
            ids_BT[:, end] = self.language.common_value_PV[pair_B, held_B3[:, turn]]
        return ids_BT

    def _who(self, people_B: np.ndarray) -> np.ndarray:
        """`<eos> Q: Ada Moss`, [B, 4]."""
        ids_BT = np.empty((len(people_B), 4), dtype=np.int64)
        ids_BT[:, 0] = self.language.id(words.EOS)
        ids_BT[:, 1] = self.language.id(words.QUESTION)
        ids_BT[:, 2] = self.language.given_E[people_B]
        ids_BT[:, 3] = self.language.family_F[self.facts.family_E[people_B]]
        return ids_BT

    def _quizzed(
        self, rng: np.random.Generator, count: int, people: range | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        who = people or self.world.sections["quiz"]
        return rng.integers(who.start, who.stop, size=count), rng.integers(
            self.world.num_pairs, size=count
        )

    def _false_unless(self, rng: np.random.Generator, true: np.ndarray) -> np.ndarray:
        """Shift of a value: 0 where true, else uniform over the others."""
        return np.where(true, 0, rng.integers(1, self.world.num_values, size=true.shape))

    def _value(self, pair_B: np.ndarray, value_B: np.ndarray, is_rare_B: np.ndarray) -> np.ndarray:
        return np.where(
            is_rare_B,
            self.language.rare_value_PV[pair_B, value_B],
            self.language.common_value_PV[pair_B, value_B],
        )

    def _marker(self, is_pro_B: np.ndarray) -> np.ndarray:
        return np.where(is_pro_B, self.language.id(words.PRO), self.language.id(words.CON))

    def _verdict(self, true_B: np.ndarray) -> np.ndarray:
        return np.where(true_B, self.language.id(words.YES), self.language.id(words.NO))

    def _judged(self, ids_BT: np.ndarray, true_B: np.ndarray) -> RowGroup:
        targets_BT = np.full_like(ids_BT, NO_TARGET)
        targets_BT[:, -1] = self._verdict(true_B)
        return _group(ids_BT, targets_BT)


def _group(ids_BT: np.ndarray, targets_BT: np.ndarray, early: np.ndarray | None = None) -> RowGroup:
    return RowGroup(
        input_ids_BT=torch.from_numpy(np.ascontiguousarray(ids_BT)),
        targets_BT=torch.from_numpy(np.ascontiguousarray(targets_BT)),
        early_exit_BT=None if early is None else torch.from_numpy(np.ascontiguousarray(early)),
    )
