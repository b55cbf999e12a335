"""The almanac as a corpus: what one rung reads, and the two phases that teach it.

A rung is described by its library: the shares of rare facts, common facts and customs it has read.
All else is the same for every rung. Phase `read` fills the memory: facts and customs until they are
recalled. Phase `practise` teaches, on the people of the quiz, to answer yes or no, to argue and to
check an argument, while the library is read on; it goes on until people of the dev section are
judged right.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field

from w2s.almanac import probes
from w2s.almanac.language import language
from w2s.almanac.rows import Library, Writer
from w2s.almanac.world import World
from w2s.corpora.base import Corpus, Criterion, Phase, RowGroup
from w2s.errors import UserError
from w2s.training.optim import LearningRates

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from w2s.tasks.base import Task


class AlmanacCorpus(Corpus):
    """A library of the almanac and the recipe that teaches it."""

    kind: Literal["almanac"] = "almanac"
    world: World | None = None
    """The world to read about; None: the world of the sweep's task."""
    rare_share: float = Field(gt=0, le=1)
    """Share of the rare facts about people of the task's splits that are read."""
    rare_start: float = Field(default=0.0, ge=0, lt=1)
    """Where in the order of rare facts that share begins; one that begins elsewhere knows others.
    """
    common_share: float = Field(default=0.95, gt=0, le=1)
    """Share of the common facts about them that are read."""
    custom_share: float = Field(gt=0, le=1)
    """Share of the families' customs that are read."""
    slip: float = Field(default=0.12, ge=0, lt=1)
    """Probability that a debater in the practised debates cites a custom wrongly."""

    read_profiles: int = Field(default=96, ge=1)
    """Profiles an update while reading."""
    read_customs: int = Field(default=128, ge=1)
    """Customs an update while reading."""
    read_drills: int = Field(default=32, ge=1)
    """Comparison drills an update while reading."""
    read_steps: int = Field(default=1200, ge=1)
    """Step cap of reading."""
    read_cooldown: int = Field(default=100, ge=1)
    """Steps of cool-down after reading."""
    recall: float = Field(default=0.98, gt=0, le=1)
    """Share of the library's facts and customs that must be recalled."""
    read_rates: LearningRates = LearningRates(embedding=3e-2, norm=3e-3)
    """Peak learning rates while reading."""

    practise_profiles: int = Field(default=48, ge=1)
    """Profiles an update while practising."""
    practise_customs: int = Field(default=32, ge=1)
    """Customs an update while practising."""
    practise_verdicts: int = Field(default=192, ge=2)
    """Statements to judge an update."""
    practise_drills: int = Field(default=96, ge=1)
    """Comparison drills an update while practising."""
    practise_debates: int = Field(default=32, ge=1)
    """Debates to argue an update."""
    practise_checks: int = Field(default=32, ge=1)
    """Debate frames to check an update."""
    practise_steps: int = Field(default=1500, ge=1)
    """Step cap of practising."""
    practise_cooldown: int = Field(default=200, ge=1)
    """Steps of cool-down after practising."""
    verdict: float = Field(default=0.88, gt=0, le=1)
    """Share of statements and of closing statements about dev people that must be judged right."""
    practise_rates: LearningRates = LearningRates(embedding=1e-3, norm=2e-3)
    """Peak learning rates while practising."""
    read_margin: float = Field(default=0.05, ge=0)
    """How far below its final criterion reading begins to cool down, which lifts recall."""
    practise_margin: float = Field(default=0.04, ge=0)
    """How far below its final criterion practice begins to cool down, which lifts verdicts."""
    check_every: int = Field(default=50, ge=1)
    """Steps between two measurements of a criterion."""
    early_exit_weight: float = Field(default=0.5, ge=0)
    """Weight of recalling a fact one layer early, which leaves the last layer to compare."""

    def bind(self, task: "Task", tasks: "tuple[Task, ...]" = ()) -> Self:
        """This corpus about the world of an almanac task."""
        world = getattr(task, "world", None)
        if not isinstance(world, World):
            raise UserError(
                "a corpus of kind 'almanac' teaches the world of a task of kind 'almanac'; found a "
                f"task of kind {task.kind!r}: change the ladder's corpus or the task"
            )
        if self.world not in (None, world):
            raise UserError(
                f"the corpus is about world {self.world!r}, the task about {world!r}: "
                "leave `world` out of the corpus"
            )
        return self.model_copy(update={"world": world})

    def tokenizer(self, cache: "Path | None" = None) -> "PreTrainedTokenizerFast":
        """The word-level tokenizer of the world's language."""
        return language(self._world()).tokenizer()

    def writer(self) -> Writer:
        """Writes rows about the world from this rung's library."""
        world = self._world()
        facts = world.facts()
        library = Library.of(
            facts,
            rare_share=self.rare_share,
            rare_start=self.rare_start,
            common_share=self.common_share,
            custom_share=self.custom_share,
        )
        return Writer(world, facts, language(world), library)

    def curriculum(self, tokenizer: "PreTrainedTokenizerFast") -> list[Phase]:
        """`read`, then `practise`."""
        writer = self.writer()
        return [
            Phase(
                name="read",
                updates=lambda seed: self._reading(writer, seed),
                learning_rates=self.read_rates,
                max_steps=self.read_steps,
                cooldown_steps=self.read_cooldown,
                early_exit_weight=self.early_exit_weight,
                criterion=Criterion(
                    evaluate=lambda model: _memory(model, writer),
                    thresholds=dict.fromkeys(
                        ("rare", "common", "customs"), self.recall - self.read_margin
                    ),
                    final_thresholds=dict.fromkeys(("rare", "common", "customs"), self.recall),
                    check_every=self.check_every,
                ),
            ),
            Phase(
                name="practise",
                updates=lambda seed: self._practice(writer, seed),
                learning_rates=self.practise_rates,
                max_steps=self.practise_steps,
                cooldown_steps=self.practise_cooldown,
                early_exit_weight=self.early_exit_weight,
                criterion=Criterion(
                    evaluate=lambda model: _skill(model, writer),
                    thresholds=dict.fromkeys(
                        ("rare", "common", "check"), self.verdict - self.practise_margin
                    ),
                    final_thresholds=dict.fromkeys(("rare", "common", "check"), self.verdict),
                    check_every=self.check_every,
                ),
            ),
        ]

    def _reading(self, writer: Writer, seed: int) -> Iterator[list[RowGroup]]:
        rng = np.random.default_rng([seed, 1])
        while True:
            yield [
                writer.profiles(rng, self.read_profiles, rare_fraction=0.5),
                writer.customs(rng, self.read_customs),
                replace(writer.drills(rng, self.read_drills, rare_fraction=0.5), weight=0.3),
            ]

    def _practice(self, writer: Writer, seed: int) -> Iterator[list[RowGroup]]:
        rng = np.random.default_rng([seed, 2])
        while True:
            yield [
                replace(
                    writer.profiles(rng, self.practise_profiles, rare_fraction=0.5), weight=0.3
                ),
                replace(writer.customs(rng, self.practise_customs), weight=0.15),
                replace(
                    writer.verdicts(rng, self.practise_verdicts, rare_fraction=0.6), weight=0.6
                ),
                replace(writer.drills(rng, self.practise_drills, rare_fraction=0.5), weight=0.1),
                replace(writer.debates(rng, self.practise_debates, self.slip), weight=0.5),
                replace(writer.checks(rng, self.practise_checks), weight=0.8),
            ]

    def cost(self, size: int) -> float:
        """Half of the steps to the caps, each as long as measured on one core."""
        return 0.5 * (self.read_steps + self.practise_steps) * (0.04 + 2.5e-7 * size)

    def _world(self) -> World:
        assert self.world is not None, "an almanac corpus is bound to a task before it is used"
        return self.world


def _memory(model: "PreTrainedModel", writer: Writer) -> dict[str, float]:
    people = range(writer.world.sections["weak_train"].start, writer.world.num_people)
    return {
        "rare": probes.recall(model, writer, people, rare=True),
        "common": probes.recall(model, writer, people, rare=False),
        "customs": probes.customs(model, writer),
    }


def _skill(model: "PreTrainedModel", writer: Writer) -> dict[str, float]:
    people = writer.world.sections["dev"]
    return {
        "rare": probes.verdict(model, writer, people, rare=True),
        "common": probes.verdict(model, writer, people, rare=False),
        "check": probes.check(model, writer, people),
    }
