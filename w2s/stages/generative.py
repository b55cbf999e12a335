"""Generative finetuning before supervision (Burns et al. 2023, section 5.2.2)."""

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from w2s.stages.base import Lane, StageContext
from w2s.stages.models import (
    MODEL_FOLDER,
    Model,
    ModelStage,
    load_options,
    model_key,
    model_location,
)
from w2s.stages.tokens import Tokens, read_tokens
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

    def runs_code(self) -> bool:
        """As the base model."""
        return load_options(self.model)["trust_remote_code"]

    def run(self, context: StageContext) -> None:
        """Write `model/`: weights, config and tokenizer.

        Raises:
            UserError: the model is no decoder, or its weights cannot be loaded.
        """
        from w2s.models.language_model import load_language_model
        from w2s.models.tokenizer import load_tokenizer
        from w2s.training.acceleration import accelerate
        from w2s.training.generative import finetune_language_model
        from w2s.training.parallel import Replicas
        from w2s.training.sharding import full_state

        replicas = context.replicas or Replicas()
        location, options = model_location(self.model, context), load_options(self.model)
        model = load_language_model(location, **options)
        table = read_tokens(context.path(self.tokens))
        texts = table.where(table.index["split"].isin(self.splits).to_numpy()).rows
        accelerate(model, context.acceleration)
        finetune_language_model(
            model,
            replace(texts, texts_per_row=1),
            self.train,
            seed=self.seed,
            replicas=replicas,
            device=context.device,
            precision=context.precision,
            micro_batch_size=context.micro_batch_size,
            micro_batch_tokens=context.acceleration.micro_batch_tokens,
            on_progress=context.progress,
            on_shrink=context.shrink,
            checkpoints=context.checkpoints,
        )
        state = full_state(model) if replicas.sharded else None
        if replicas.rank == 0:
            folder = context.output_dir / MODEL_FOLDER
            model.save_pretrained(folder, state_dict=state)
            tokenizer = load_tokenizer(location, **options)
            tokenizer.save_pretrained(folder)
