"""A weak supervisor that reads the strong model's critique of the proposed answer.

The critic of the automated weak-to-strong researcher (Anthropic 2026), without its training by
reinforcement. `{ kind = "judge", reads = "critique" }` labels with it zero-shot.
"""

from typing import Literal

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.templates import CritiquePrompts


class Critique(Method):
    """A critique a row, in the supervisor's input in finetuning and labelling."""

    kind: Literal["critique"] = "critique"
    critic: str = "strong"
    """Who criticises: `strong`, `weak`, a rung of the ladder or a speaker of the sweep."""
    prompts: CritiquePrompts | None = None
    """What the critic reads; None: as the task says."""

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """The critiques."""
        return (setup.critique(setup.named(self.critic), prompts=self.prompts),)

    def supervision(self, setup: Setup) -> Stage:
        """The weak supervisor with the critiques."""
        return setup.supervisor(*self.contexts(setup))
