"""A seeded world of made-up people: who lives where, and the customs that tie facts together.

`World` is the spec (seed and sizes), `Facts` what it unfolds to. Every person has, for each of a
few relation *pairs*, a rare fact (`Ada Moss city Tola`) and a common fact (`Ada Moss region Mira`).
They are tied by customs: in each family, a rare value goes with exactly one common value (`among
the Mosses, city Tola lies in region Mira`). Over all families rare and common facts are
independent, so knowing a person's region says nothing about the city to a reader who does not know
the family's custom.

A *library* is what one reader has read: shares of the rare facts, the common facts and the customs.
Libraries are nested: each fact has a rank in (0, 1) and belongs to every library whose share
exceeds it. The people of the quiz and dev sections are in every library; the people of the task's
splits appear in no quiz.

E people, P relation pairs, F families, V values of a relation.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from w2s.spec import Spec

Section = Literal["quiz", "dev", "weak_train", "strong_train", "val", "test"]

PAIRS = (("city", "region"), ("guild", "trade"), ("dish", "taste"), ("song", "mood"))
"""Rare and common relation of each pair."""


class World(Spec):
    """Seed and sizes of a world."""

    seed: int = Field(default=0, ge=0)
    """Draws names, facts, customs, ranks and questions."""
    num_values: int = Field(default=8, ge=3)
    """Values of each relation."""
    num_families: int = Field(default=16, ge=2)
    """Families, each with customs of its own."""
    num_quiz: int = Field(default=500, ge=8)
    """People whose facts are in every library and on whom verdicts and debates are practised."""
    num_dev: int = Field(default=80, ge=8)
    """People whose facts are in every library, never practised on: pretraining criteria."""
    num_weak_train: int = Field(default=120, ge=1)
    """People of the split the weak supervisor is finetuned on."""
    num_strong_train: int = Field(default=200, ge=1)
    """People of the split the student is finetuned on."""
    num_val: int = Field(default=80, ge=1)
    """People of the validation split."""
    num_test: int = Field(default=260, ge=1)
    """People of the test split."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def num_pairs(self) -> int:
        """Relation pairs, hence questions about each person."""
        return len(PAIRS)

    @property
    def sections(self) -> dict[Section, range]:
        """People of each section; they are alike, so sections are contiguous."""
        sizes: dict[Section, int] = {
            "quiz": self.num_quiz,
            "dev": self.num_dev,
            "weak_train": self.num_weak_train,
            "strong_train": self.num_strong_train,
            "val": self.num_val,
            "test": self.num_test,
        }
        ends = np.cumsum(list(sizes.values())).tolist()
        return {
            name: range(end - size, end)
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }

    @property
    def num_people(self) -> int:
        """People of all sections."""
        return self.sections["test"].stop

    def facts(self) -> "Facts":
        """The world itself; computed once per process."""
        return _facts(self)


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Everything that is so in a world, as index arrays."""

    family_E: np.ndarray
    """Family of each person."""
    rare_EP: np.ndarray
    """Value of each rare fact."""
    common_EP: np.ndarray
    """Value of each common fact: the custom of the family applied to the rare value."""
    custom_PFV: np.ndarray
    """Common value that goes with a rare value in a family; a permutation along the last axis."""
    rare_rank_EP: np.ndarray
    """Rank of each rare fact in (0, 1); 0 for people of quiz and dev."""
    common_rank_EP: np.ndarray
    """Rank of each common fact."""
    custom_rank_PFV: np.ndarray
    """Rank of each custom."""
    claim_EP: np.ndarray
    """Rare value that the task's question claims: the fact, or by a fair coin one of the others."""

    @property
    def label_EP(self) -> np.ndarray:
        """1 where the claim is the fact."""
        return (self.claim_EP == self.rare_EP).astype(np.int64)


@lru_cache(maxsize=4)
def _facts(world: World) -> Facts:
    rng = np.random.default_rng([world.seed, 1])
    people, pairs = world.num_people, world.num_pairs
    family_E = rng.integers(world.num_families, size=people)
    rare_EP = rng.integers(world.num_values, size=(people, pairs))
    custom_PFV = np.stack(
        [_customs(rng, world.num_families, world.num_values) for _ in range(pairs)]
    )
    common_EP = custom_PFV[np.arange(pairs), family_E[:, None], rare_EP]
    false_EP = (
        rare_EP + rng.integers(1, world.num_values, size=(people, pairs))
    ) % world.num_values
    claim_EP = np.where(rng.random((people, pairs)) < 0.5, rare_EP, false_EP)
    ranks = rng.random((2, people, pairs))
    ranks[:, : world.sections["dev"].stop] = 0.0
    return Facts(
        family_E=family_E,
        rare_EP=rare_EP,
        common_EP=common_EP,
        custom_PFV=custom_PFV,
        rare_rank_EP=ranks[0],
        common_rank_EP=ranks[1],
        custom_rank_PFV=rng.random(custom_PFV.shape),
        claim_EP=claim_EP,
    )


def _customs(rng: np.random.Generator, num_families: int, num_values: int) -> np.ndarray:
    """A random permutation for each family, [F, V].

    Every run of V families is a Latin square: each rare value meets each common value once, so that
    over all families neither tells anything about the other.
    """
    rows = []
    met_VV = np.zeros((num_values, num_values), dtype=bool)
    for family in range(num_families):
        if family % num_values == 0:
            met_VV[:] = False
        costs_VV = rng.random((num_values, num_values)) + num_values * met_VV
        row_V = linear_sum_assignment(costs_VV)[1]
        met_VV[np.arange(num_values), row_V] = True
        rows.append(row_V)
    return np.stack(rows)
