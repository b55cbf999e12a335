"""What the serving layer is told about a model that a stage names, or about a finetuned teacher.

A rung or a model from outside writes text. A `Finetune` stage that kept its weights is a
classifier: where it trained an adapter of its base, its requests go through that adapter on
replicas that all such teachers of the base share; else its merged weights are a model of their own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from serving.models import ADAPTED_TYPES, Adapter, Placement, ServedModel, on_vllm
from sweeps.store import ArtifactStore
from w2s.errors import UserError
from w2s.models.remote import RemoteModel
from w2s.models.source import PretrainedModel
from w2s.spec import digest
from w2s.stages.base import Stage
from w2s.stages.finetune import ADAPTER_FOLDER, WEIGHTS_FOLDER, Finetune
from w2s.stages.models import MODEL_FOLDER, Model, ModelStage, load_options, model_key


@dataclass(frozen=True, slots=True)
class Servable:
    """How a model is served: on its own replicas, or through an adapter on those of its base."""

    model: ServedModel
    """What the replicas hold."""
    base: str
    """Key of the base model: placement is looked up by it."""
    adapter: Adapter | None = None
    """What requests go through."""

    @property
    def name(self) -> str:
        """Id in the OpenAI API."""
        return self.model.name if self.adapter is None else self.adapter.name


def served_name(model: Stage | BaseModel) -> str:
    """Name of a base model's replicas; those of finetuned teachers are called after their base."""
    return _name(getattr(model, "name", "model"), served_key(model))


def served_key(model: Stage | BaseModel) -> str:
    """Key under which a stage finds the client of a model."""
    return model.key if isinstance(model, Stage) else digest(model)


def servable(
    model: Stage | BaseModel, store: ArtifactStore, placement_of: Callable[[str], Placement]
) -> Servable:
    """How a model of the store, or one from outside, is served.

    Args:
        model: a base model, or a classifier that keeps its weights.
        store: where artifacts are.
        placement_of: placement by the key of a base model.

    Raises:
        StoreError: an artifact is missing or damaged.
        UserError: a classifier whose weights were not kept.
    """
    if isinstance(model, Finetune):
        return _teacher(model, store, placement_of)
    key = served_key(model)
    if isinstance(model, RemoteModel):
        return Servable(ServedModel(name=_name(model.name, key), path=model.model, digest=key), key)
    assert isinstance(model, ModelStage | PretrainedModel), f"cannot serve {model!r}"
    return Servable(
        ServedModel(
            name=_name(model.name, key),
            path=_location(model, store),
            digest=key,
            **_opened(model),
        ),
        key,
    )


def _teacher(
    stage: Finetune, store: ArtifactStore, placement_of: Callable[[str], Placement]
) -> Servable:
    """A finetuned classifier."""
    from transformers import AutoConfig

    from w2s.models.classifier import is_causal
    from w2s.models.tokenizer import longest_input

    if not stage.save_weights:
        raise UserError(f"{stage.name} ({stage.key}) keeps no weights, so it cannot be served")
    folder = store.local(stage)
    trusted = load_options(stage.model)["trust_remote_code"]
    config = AutoConfig.from_pretrained(folder / WEIGHTS_FOLDER, trust_remote_code=trusted)
    longest = min(stage.tokens.max_length, longest_input(config) or stage.tokens.max_length)
    name, base = _name(stage.name, stage.key), model_key(stage.model)
    merged = ServedModel(
        name=name,
        path=str(folder / WEIGHTS_FOLDER),
        digest=stage.key,
        trust_remote_code=trusted,
        task="classify",
        read_token="last" if is_causal(config) else "first",
        max_input=longest,
    )
    adapts = stage.adapts_base and (folder / ADAPTER_FOLDER).exists()
    fits = config.model_type in ADAPTED_TYPES and on_vllm(merged, placement_of(base))
    if not (adapts and fits):
        return Servable(merged, base)
    path = str(folder / ADAPTER_FOLDER)
    adapter = Adapter(name=name, path=path, digest=stage.key, max_input=longest)
    shared = merged.model_copy(
        update={
            "name": f"{_name(stage.model.name, base)}-teachers",
            "path": _location(stage.model, store),
            "digest": base,
            **_opened(stage.model),
            "adapters": (adapter,),
            "max_input": None,
        }
    )
    return Servable(shared, base, adapter)


def _location(model: Model, store: ArtifactStore) -> str:
    """Folder of a model of the store, or what the user wrote for one from outside."""
    if isinstance(model, ModelStage):
        return str(Path(store.local(model)) / MODEL_FOLDER)
    assert isinstance(model, PretrainedModel), f"{model!r} has no weights here"
    return model.path


def _opened(model: Model) -> dict[str, Any]:
    """Fields of `ServedModel` that say how its files are opened."""
    revision = model.revision if isinstance(model, PretrainedModel) else None
    return {"revision": revision, "trust_remote_code": load_options(model)["trust_remote_code"]}


def _name(name: str, key: str) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
    return f"{words}-{key[:8]}"
