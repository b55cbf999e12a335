"""Human-AI interaction with a weak model in the human's place (Sang et al. 2024).

The weak model writes background knowledge for a few questions; the strong base model, shown two of
these at a time, writes it for every question, without ever reading a proposed answer; the weak
model labels with that in its input. In the paper it is not finetuned but judges zero-shot: that is
`{ kind = "judge", reads = "interaction" }`.
"""

from typing import Literal

from pydantic import Field

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.templates import KnowledgePrompts


class Interaction(Method):
    """Background knowledge by the strong model on each question, in the supervisor's input."""

    kind: Literal["interaction"] = "interaction"
    writer: str = "strong"
    """Who writes the knowledge: `strong`, `weak`, a rung of the ladder or a speaker."""
    demonstrator: str = "weak"
    """Who writes the demonstrations: the one in the human's place."""
    num_questions: int = Field(default=8, ge=1)
    """Questions of `strong_train` that are demonstrated."""
    num_demos: int = Field(default=2, ge=0, le=16)
    """Demonstrations a prompt, drawn at random; 0: none are written."""
    prompts: KnowledgePrompts | None = None
    """What the writers read; None: as the task says."""

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """The knowledge."""
        return (
            setup.knowledge(
                setup.named(self.writer),
                setup.named(self.demonstrator),
                prompts=self.prompts,
                num_questions=self.num_questions,
                num_demos=self.num_demos,
            ),
        )

    def supervision(self, setup: Setup) -> Stage:
        """The weak supervisor with the knowledge."""
        return setup.supervisor(*self.contexts(setup))
