"""A zero-shot judge supervises: it reads what was said about a row, and nothing is finetuned.

Sang et al. (2024) let a weak model judge debates and background knowledge so, Khan et al. (2024)
and Kenton et al. (2024) debates and consultancies. What it reads is what the supervisors of another
method read, so `reads` can be any of `debate`, `consultancy`, `market_making`, `interaction`,
`critique`, `debate_ensemble`, or `naive` for nothing at all. The AI debate of Sang et al. (2024) is

    { kind = "judge", rounds = "last", reads = { kind = "debate",
      protocol = { kind = "simultaneous", num_rounds = 2, own_turns = false } } }
"""

from typing import Literal

from pydantic import Field

from w2s.errors import UserError
from w2s.methods._debating import averaged
from w2s.methods.base import Method
from w2s.spec import OneOf, parse
from w2s.stages.base import Stage, closure
from w2s.stages.debate import Debate
from w2s.stages.setup import Setup
from w2s.templates import JudgePrompts
from w2s.types import Split


class Judge(Method):
    """A base model labels after reading what the supervisors of another method read, zero-shot."""

    kind: Literal["judge"] = "judge"
    judge: str = "weak"
    """Who judges: `weak`, `strong`, a rung of the ladder or a speaker of the sweep."""
    reads: OneOf[Method] = Field(default_factory=lambda: parse(Method, "debate"))
    """The method whose debates or other texts are read. Several a row (`debate_ensemble`) are
    judged one by one and averaged; `naive` has none, and the question is judged alone."""
    how: Literal["scores", "verdict"] = "scores"
    """By scores of the label words, which are not parsed; or by a written verdict, parsed strictly,
    even odds where it cannot be read."""
    swap: bool = False
    """Whether every debate is read in both orders of its sides, and the judgements averaged."""
    rounds: Literal["all", "last"] = "all"
    """Which rounds of a debate are read."""
    prompts: JudgePrompts | None = None
    """What the judge reads around it; None: as the task says."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """What the texts it reads depend on: a judge itself learns nothing."""
        return self.reads.truth_in_contexts

    @property
    def truth_in_contexts(self) -> frozenset[Split]:
        """The same."""
        return self.reads.truth_in_contexts

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """Those of the method it reads."""
        return self.reads.contexts(setup)

    def unaided(self, setup: Setup) -> Stage:
        """The judge without transcripts; where these hide the passage, without it too."""
        return setup.judged(
            setup.named(self.judge),
            prompts=self.prompts,
            how=self.how,
            hide_passage=any(
                isinstance(stage, Debate) and stage.protocol.hide_passage
                for stage in closure(self.contexts(setup)).values()
            ),
        )

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """The judgements of several texts a row; none where there is one."""
        judgements = self._judgements(setup)
        return judgements if len(judgements) > 1 else ()

    def supervision(self, setup: Setup) -> Stage:
        """The judgement, or the mean of several.

        Raises:
            UserError: the method it reads has no texts, and is not `naive`.
        """
        return averaged(self._judgements(setup))

    def _judgements(self, setup: Setup) -> tuple[Stage, ...]:
        contexts = self.contexts(setup)
        if not contexts and self.reads.kind != "naive":
            raise UserError(
                f"a judge cannot read what supervisors of {self.reads.label!r} read: they read the "
                'rows alone; reads = "naive" judges these, and debate, consultancy, '
                "market_making, interaction, critique and their ensembles have texts to read"
            )
        return tuple(
            setup.judged(
                setup.named(self.judge),
                transcripts,
                prompts=self.prompts,
                how=self.how,
                swap=self.swap,
                rounds=self.rounds,
            )
            for transcripts in contexts or (None,)
        )
