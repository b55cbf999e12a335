"""Language-model finetuning on the task's texts before supervision (Burns et al. 2023, 5.2.2).

The student's base model reads the texts of `strong_train`, every option of them, without a label;
the ceiling starts from the same model, or the gap would be measured against another one.
"""

from dataclasses import replace
from typing import Literal

from w2s.methods._around import Around
from w2s.models.source import PretrainedModel, require_decoder
from w2s.stages.base import Stage
from w2s.stages.generative import GenerativeFinetune
from w2s.stages.models import Model
from w2s.stages.setup import Setup
from w2s.training.config import GenerativeConfig, TrainConfig


class GenerativeFinetuning(Around):
    """The strong model of the method within, and its ceiling, first read on in the task's texts."""

    kind: Literal["generative_finetuning"] = "generative_finetuning"
    weak_too: bool = False
    """Whether the weak model reads them too (figure 18); it is then the floor as well."""
    train: GenerativeConfig = GenerativeConfig()
    """How the texts are read."""

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """Those of the method within."""
        return self.of.members(self._weak(setup))

    def supervision(self, setup: Setup) -> Stage:
        """That of the method within."""
        return self.of.supervision(self._weak(setup))

    def labels(self, setup: Setup) -> Stage:
        """Those of the method within."""
        return self.of.labels(self._weak(setup))

    def floor(self, setup: Setup) -> Stage:
        """The weak model as it supervises."""
        return self.of.floor(self._weak(setup))

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """As in the method within, from the model that read the texts."""
        return self.of.learn(self._strong(setup), labels)

    def ceiling(self, setup: Setup) -> Stage:
        """Ground truth learnt from the model that read the texts."""
        return self.of.ceiling(self._strong(setup))

    def _strong(self, setup: Setup) -> Setup:
        read = self._read(setup, setup.strong, setup.student_train)
        return replace(setup, strong=read, ladder=_exchanged(setup, setup.strong, read))

    def _weak(self, setup: Setup) -> Setup:
        if not self.weak_too:
            return setup
        read = self._read(setup, setup.weak, setup.supervisor_train)
        strong = read if setup.strong == setup.weak else setup.strong
        ladder = _exchanged(setup, setup.weak, read)
        return replace(setup, weak=read, strong=strong, ladder=ladder)

    def _read(self, setup: Setup, model: Model, recipe: TrainConfig) -> GenerativeFinetune:
        if isinstance(model, PretrainedModel):
            require_decoder(model, "generative finetuning")
        return GenerativeFinetune(
            model=model, tokens=setup.tokens(model, recipe), train=self.train, seed=setup.seed
        )


def _exchanged(setup: Setup, old: Model, new: Model) -> dict[str, Model]:
    return {name: new if model == old else model for name, model in setup.ladder.items()}
