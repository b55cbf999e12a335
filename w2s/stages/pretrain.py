"""Pretraining a rung of the ladder on a corpus: an ordinary stage, run once and cached."""

from typing import ClassVar

from pydantic import Field

from w2s.corpora.base import Corpus
from w2s.models.architecture import Architecture
from w2s.spec import OneOf
from w2s.stages.base import Lane, StageContext
from w2s.stages.models import MODEL_FOLDER, ModelStage


class Pretrain(ModelStage):
    """A language model pretrained from random weights."""

    lane: ClassVar[Lane] = "train"

    architecture: Architecture
    """Shape of the model."""
    corpus: OneOf[Corpus]
    """What it reads, in which phases, until when."""
    data: str = ""
    """Fingerprint of the corpus's data outside its spec."""
    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights and of the order of the text."""

    @property
    def name(self) -> str:
        """Readable name."""
        shape = self.architecture
        return f"pretrain-{shape.hidden_size}x{shape.num_layers}-{self.corpus.kind}"

    def size(self) -> int:
        """Parameters without the two embedding tables: the size on the axes of figures."""
        return self.architecture.num_parameters(0)

    def cost(self) -> float:
        """Estimated seconds on one core."""
        return self.corpus.cost(self.size())

    def run(self, context: StageContext) -> None:
        """Train through the corpus's phases and write `model/`: weights, config and tokenizer.

        Raises:
            CriterionMissed: a phase reached its step cap before its criterion held.
        """
        from torch import nn

        from w2s.training.parallel import Replicas
        from w2s.training.pretraining import pretrain

        replicas = context.replicas or Replicas()
        tokenizer = self.corpus.tokenizer()
        model = self.architecture.build(tokenizer, self.seed)
        nn.Module.to(model, context.device)
        pretrain(
            model,
            self.corpus.curriculum(tokenizer),
            seed=self.seed,
            replicas=replicas,
            on_progress=context.progress,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
            on_shrink=context.shrink,
            checkpoints=context.checkpoints,
        )
        if replicas.rank == 0:
            folder = context.output_dir / MODEL_FOLDER
            model.save_pretrained(folder, safe_serialization=True)
            tokenizer.save_pretrained(folder)
