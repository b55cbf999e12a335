"""Generative finetuning before supervision (Burns et al. 2023, section 5.2.2)."""

from typing import ClassVar

from pydantic import Field

from w2s.stages.base import Lane, StageContext
from w2s.stages.models import Model, ModelStage, model_key
from w2s.stages.tokens import Tokens
from w2s.training.config import GenerativeConfig
from w2s.types import Split


class GenerativeFinetune(ModelStage):
    """A language model that read on in the task's texts, without any label.

    Of a choice among texts every option is read, the rejected ones too.
    """

    lane: ClassVar[Lane] = "train"

    model: Model
    """Base model; a decoder."""
    tokens: Tokens
    """Its texts."""
    splits: tuple[Split, ...] = ("strong_train",)
    """Whose texts are read."""
    train: GenerativeConfig
    """Optimizer, schedule, epochs."""
    seed: int = Field(ge=0)
    """Seed of the order of the texts."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"generative-{self.model.name.removeprefix('pretrain-')}-s{self.seed}"

    @property
    def base_model(self) -> str:
        """Key of the base model."""
        return model_key(self.model)

    def size(self) -> int:
        """That of the base model."""
        return self.model.size()

    def run(self, context: StageContext) -> None:
        """Write `model/`: weights, config and tokenizer."""
        raise NotImplementedError
