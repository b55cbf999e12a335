"""Base models as stages see them: from outside, left by a stage of the sweep, or behind a URL."""

from pathlib import Path

from pydantic import SerializeAsAny

from w2s.models.remote import RemoteModel, require_local
from w2s.models.source import PretrainedModel
from w2s.spec import digest
from w2s.stages.base import Stage, StageContext

MODEL_FOLDER = "model"


class ModelStage(Stage):
    """A stage that leaves a language model: weights, config and tokenizer in `model/`."""

    def size(self) -> int:
        """Parameters without the embedding tables: the size on the axes of figures."""
        raise NotImplementedError


Model = SerializeAsAny[ModelStage] | PretrainedModel | RemoteModel


def model_key(model: Model) -> str:
    """Identity of a base model, wherever it comes from."""
    return model.key if isinstance(model, ModelStage) else digest(model)


def model_location(model: Model, context: StageContext) -> str | Path:
    """Folder (or hub id) from which `from_pretrained` loads the model.

    Raises:
        UserError: the model is behind a URL.
    """
    if isinstance(model, ModelStage):
        return context.path(model) / MODEL_FOLDER
    require_local(model, "this stage")
    assert isinstance(model, PretrainedModel)
    return model.path


def revision_of(model: Model) -> str | None:
    """Revision of a hub id."""
    return model.revision if isinstance(model, PretrainedModel) else None
