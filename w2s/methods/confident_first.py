"""A curriculum: the confident half of the weak labels first, then all of them (AAR 2026).

The second phase goes on from the first one's weights with half its learning rate and a schedule of
its own.
"""

from typing import Literal

from pydantic import Field

from w2s.errors import UserError
from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.selection import ConfidentSelection
from w2s.stages.setup import Setup


class ConfidentFirst(Around):
    """Two finetunings of the student, one after the other; `of` says who labels."""

    kind: Literal["confident_first"] = "confident_first"
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows of each class that the first phase learns, the most confident ones."""
    first_epochs: int = Field(default=2, ge=1)
    """Passes over the confident rows."""
    epochs: int = Field(default=3, ge=1)
    """Passes over all rows after that."""
    learning_rate_factor: float = Field(default=0.5, gt=0)
    """Learning rate of the second phase, as a multiple of the recipe's."""

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """The second phase.

        Raises:
            UserError: the student's recipe is a probe.
        """
        recipe = setup.student_train
        if recipe.mode == "probe":
            raise UserError(
                "confident_first finetunes the student twice; found student.mode = 'probe'; "
                "allowed: full, lora, probe_then_finetune"
            )
        confident = ConfidentSelection(labels=labels, by="top_share", share=self.share)
        first = setup.student(
            confident,
            recipe=recipe.model_copy(update={"epochs": self.first_epochs}),
            save_weights=True,
        )
        head_rate, factor = recipe.head_learning_rate, self.learning_rate_factor
        changes = {
            "epochs": self.epochs,
            "learning_rate": recipe.learning_rate * factor,
            "head_learning_rate": None if head_rate is None else head_rate * factor,
        }
        return setup.student(labels, recipe=recipe.model_copy(update=changes), start=first)
