"""The student reads the weak label in its prompt (Burns et al. 2023, appendix E).

A control: the supervisor's errors are now trivial to imitate, and the gap recovered should vanish.
"""

from typing import Literal

from pydantic import Field

from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.imitation import StatedLabels
from w2s.stages.setup import Setup


class TrivialImitation(Around):
    """Every prompt of the student ends in a sentence that states the weak label's top class.

    So it is in training and in testing. The recipe is the plain student's, whatever `of` does.
    """

    kind: Literal["trivial_imitation"] = "trivial_imitation"
    template: str = Field(default="I think this is {label}.", pattern=r"\{label\}")
    """The sentence, with `{label}` for the number of the class."""

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """The student that reads the labels it learns."""
        stated = StatedLabels(labels=labels, prompts=setup.prompts, template=self.template)
        return setup.classifier(
            setup.strong,
            labels,
            "strong_train",
            recipe=setup.student_train,
            loss=setup.loss,
            transcripts=stated,
        )
