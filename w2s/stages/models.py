"""Base models as stages see them: from outside, left by a stage of the sweep, or behind a URL."""

from pathlib import Path

from pydantic import SerializeAsAny

from w2s.models.remote import RemoteModel, require_local
from w2s.models.source import LoadOptions, PretrainedModel
from w2s.spec import digest
from w2s.stages.base import Stage, StageContext

MODEL_FOLDER = "model"


class ModelStage(Stage):
    """A stage that leaves a language model: weights, config and tokenizer in `model/`."""

    def size(self) -> int:
        """Parameters without the embedding tables: the size on the axes of figures."""
        raise NotImplementedError

    def runs_code(self) -> bool:
        """Whether code that came with a model from outside may run when this one is loaded."""
        return False


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


def load_options(model: Model) -> LoadOptions:
    """How `from_pretrained` opens what is at `model_location`."""
    if isinstance(model, PretrainedModel):
        return model.load_options
    return {
        "revision": "main",
        "trust_remote_code": isinstance(model, ModelStage) and model.runs_code(),
    }
