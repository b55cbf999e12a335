"""Feature vectors of every row: a frozen model's hidden states, computed once for all probes."""

from typing import ClassVar

from pydantic import Field, SerializeAsAny

from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.finetune import Finetune
from w2s.stages.models import Model, model_key
from w2s.stages.tokens import Tokens


class Features(Stage):
    """Hidden state at the token that a head would read, for every row of all splits."""

    lane: ClassVar[Lane] = "train"

    source: Model | SerializeAsAny[Finetune]
    """Base model, or a finetuned classifier that keeps its weights."""
    tokens: Tokens
    """The rows."""
    layer: int = Field(default=-1)
    """Layer whose output is kept: -1 the final hidden state, 0 the embeddings, k the k-th block."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"features-{self.source.name.removeprefix('pretrain-')}"

    @property
    def base_model(self) -> str:
        """Key of the base model."""
        source = self.source
        return model_key(source.model) if isinstance(source, Finetune) else model_key(source)

    def run(self, context: StageContext) -> None:
        """Write `features.safetensors` ([N, D], or [N, K, D] for rows of K options) and the index.

        `index.parquet` holds (split, row_id) in the same order.
        """
        raise NotImplementedError
