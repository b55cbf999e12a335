"""Feature vectors of every row: a frozen model's hidden states, computed once for all probes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import pandas as pd
from pydantic import Field, SerializeAsAny, model_validator

from w2s.stages.base import Lane, Stage, StageContext
from w2s.stages.finetune import WEIGHTS_FOLDER, Finetune, base_backbone
from w2s.stages.models import Model, load_options, model_key
from w2s.stages.tokens import INDEX_FILE, Tokens, read_tokens
from w2s.types import SPLITS

if TYPE_CHECKING:
    from torch import Tensor

FEATURES_FILE = "features.safetensors"


class Features(Stage):
    """Hidden state at the token that a head would read, for every row of all splits."""

    lane: ClassVar[Lane] = "train"

    source: Model | SerializeAsAny[Finetune]
    """Base model, or a finetuned classifier that keeps its weights."""
    tokens: Tokens
    """The rows."""
    layer: int = Field(default=-1, ge=-1)
    """Layer whose output is kept: k that of the k-th block, 0 the embeddings, -1 the last one as a
    head would read it (normed)."""

    @model_validator(mode="after")
    def _weights_are_kept(self) -> Self:
        if isinstance(self.source, Finetune) and not self.source.save_weights:
            raise ValueError(f"{self.source.name} keeps no weights to take features from")
        return self

    @property
    def name(self) -> str:
        """Readable name."""
        return f"features-{self.source.name.removeprefix('pretrain-')}"

    @property
    def base_model(self) -> str:
        """Key of the base model."""
        source = self.source
        return model_key(source.model) if isinstance(source, Finetune) else model_key(source)

    def cost(self) -> float:
        """Estimated seconds on one core: a forward pass over every row."""
        model = self.source.model if isinstance(self.source, Finetune) else self.source
        flops = self.tokens.num_rows(*SPLITS) * self.tokens.row_tokens() * 2 * model.size()
        return 0.3 + flops / 4e10

    def run(self, context: StageContext) -> None:
        """Write `features.safetensors` ([N, D], or [N, K, D] for rows of K options) and the index.

        `index.parquet` holds (split, row_id) in the same order.

        Raises:
            UserError: the model has fewer blocks than `layer`.
        """
        from safetensors.numpy import save_file

        from w2s.models.classifier import load_backbone
        from w2s.training.hidden import hidden_features
        from w2s.training.parallel import Replicas

        replicas = context.replicas or Replicas()
        table = read_tokens(context.path(self.tokens))
        source = self.source
        backbone = (
            load_backbone(
                context.path(source) / WEIGHTS_FOLDER,
                device=context.device,
                trust_remote_code=load_options(source.model)["trust_remote_code"],
            )
            if isinstance(source, Finetune)
            else base_backbone(source, context)
        )
        features = hidden_features(
            backbone,
            table.rows,
            layer=self.layer,
            replicas=replicas,
            device=context.device,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
            on_progress=context.progress,
        )
        if replicas.rank == 0:
            table.index.to_parquet(context.output_dir / INDEX_FILE, index=False)
            save_file({"features": features}, context.output_dir / FEATURES_FILE)


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """A features artifact: the rows in file order."""

    index: pd.DataFrame
    """split, row_id."""
    features: "Tensor"
    """float32 [N, D], or [N, K, D] for rows of K options, as a mapped file."""


def read_features(folder: Path) -> FeatureTable:
    """Read a features artifact."""
    from safetensors.torch import load_file

    features = load_file(folder / FEATURES_FILE)["features"]
    return FeatureTable(pd.read_parquet(folder / INDEX_FILE), features)
