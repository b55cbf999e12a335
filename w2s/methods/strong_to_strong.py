"""The student's own labels teach a fresh strong model, again and again (EleutherAI 2024)."""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class StrongToStrong(Around):
    """After weak-to-strong learning, the strong model learns what the student says."""

    kind: Literal["strong_to_strong"] = "strong_to_strong"
    iterations: int = Field(default=2, ge=1, le=16)
    """Times that a fresh strong model learns the labels of the student before it."""

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """The student of the last iteration."""
        return self._chain(setup, labels)[-1]

    def arms(self, setup: Setup) -> dict[str, Stage]:
        """The student after each iteration; 0 is the one that the supervisor taught."""
        return {
            f"iteration {number}": student
            for number, student in enumerate(self._chain(setup, self.labels(setup)))
        }

    def _chain(self, setup: Setup, labels: Stage) -> list[Stage]:
        students = [self.of.learn(setup, labels)]
        for _ in range(self.iterations):
            students.append(self.of.learn(setup, students[-1]))
        return students
