"""Supervision through models of rising size (Burns et al. 2023, section 4.3.1).

The weak supervisor labels for a rung a little larger, that one for the next, and the last of them
for the student. All learn the same rows, with the experiment's loss.
"""

from dataclasses import replace
from typing import Literal

from w2s.errors import UserError
from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class Bootstrapping(Around):
    """A chain of students: each learns the labels of the one before."""

    kind: Literal["bootstrapping"] = "bootstrapping"
    through: int | tuple[str, ...] = 1
    """The rungs between weak and strong: their names, or how many, evenly taken (1 or more)."""

    def rungs(self, setup: Setup) -> tuple[str, ...]:
        """Names of the rungs that the chain goes through, smallest first.

        Raises:
            UserError: the pair has too few rungs between, or a name is not one of them.
        """
        between = [name for name, model in setup.ladder.items() if model in setup.between]
        found = f"between the two models of this pair the ladder has {', '.join(between) or 'none'}"
        if isinstance(self.through, int):
            if not 1 <= self.through <= len(between):
                raise UserError(
                    f"bootstrapping through {self.through} rungs: {found}; name pairs further "
                    "apart, or set `through` to a number from 1 to the number of rungs between"
                )
            gap = (len(between) + 1) / (self.through + 1)
            return tuple(between[round(step * gap) - 1] for step in range(1, self.through + 1))
        unknown = [name for name in self.through if name not in between]
        if unknown or not self.through:
            raise UserError(
                f"bootstrapping through {', '.join(self.through) or 'no rungs'}: {found}; "
                "name one or more of these"
            )
        return tuple(name for name in between if name in self.through)

    def arms(self, setup: Setup) -> dict[str, Stage]:
        """The student at each rung of the chain, by the name of the rung."""
        arms: dict[str, Stage] = {}
        labels = self.of.labels(setup)
        for name in self.rungs(setup):
            labels = self.of.learn(replace(setup, strong=setup.ladder[name]), labels)
            arms[name] = labels
        return arms

    def labels(self, setup: Setup) -> Stage:
        """Predictions of the last student before the strong one."""
        return list(self.arms(setup).values())[-1]
