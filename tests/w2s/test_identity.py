"""Identity: what is in a key, and that nothing else is."""

import math
from typing import Any

import pytest
from pydantic import BaseModel

from sweeps.config import Runtime, Sweep
from tests.w2s import specs
from w2s.corpora.text import TextSource
from w2s.losses.confidence import Confidence
from w2s.models.source import PretrainedModel
from w2s.spec import digest
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth
from w2s.stages.finetune import Finetune
from w2s.tasks._dataset import DatasetTask

EVERY = [*specs.registered(), *specs.stages(), *specs.plain()]


def identity(spec: BaseModel) -> str:
    """Key of a stage, digest of any other spec."""
    return spec.key if isinstance(spec, Stage) else digest(spec)


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: type(spec).__name__)
def test_every_field_changes_the_key(spec: BaseModel) -> None:
    keys = {"": identity(spec)}
    for field, variant in specs.variants(spec):
        fresh = type(spec).model_validate(
            {name: getattr(variant, name) for name in type(spec).model_fields}
        )
        keys[field] = identity(fresh)
    assert len(set(keys.values())) == len(keys), f"fields that share a key: {keys}"


def test_the_only_fields_without_identity_are_places_whose_content_has_a_fingerprint() -> None:
    found = {
        (type(spec).__name__, field)
        for spec in [
            *EVERY,
            PretrainedModel(path="here", fingerprint="ab"),
            TextSource(path="p", template="{t}"),
        ]
        for field in set(type(spec).model_fields) - set(specs.identity_fields(spec))
    }
    tables = {type(spec).__name__ for spec in EVERY if isinstance(spec, DatasetTask)}
    assert found == {(name, "path") for name in ("PretrainedModel", "TextSource", *tables)}


def test_a_model_folder_that_moved_is_the_same_model() -> None:
    here, there = (PretrainedModel(path=path, fingerprint="ab") for path in ("here", "there"))
    assert digest(here) == digest(there)
    assert digest(here) != digest(PretrainedModel(path="here", fingerprint="cd"))


def test_every_stage_class_is_covered() -> None:
    def subclasses(of: type[Any]) -> set[type[Any]]:
        return {of} | {found for child in of.__subclasses__() for found in subclasses(child)}

    ours = {
        found
        for found in subclasses(Stage)
        if found.__module__.startswith("w2s.") and found.run is not Stage.run
    }
    assert ours == {type(stage) for stage in specs.stages()}


def test_a_nested_loss_keeps_its_own_fields_in_the_key() -> None:
    finetune = next(stage for stage in specs.stages() if isinstance(stage, Finetune))
    keys = {
        finetune.model_copy(update={"loss": Confidence(max_weight=weight)}).identity()["loss"][
            "max_weight"
        ]
        for weight in (0.1, 0.9)
    }
    assert keys == {0.1, 0.9}
    weak, strong = (
        Finetune(**{**_fields(finetune), "loss": Confidence(max_weight=weight)})
        for weight in (0.1, 0.9)
    )
    assert weak.key != strong.key


def test_the_key_of_an_input_is_part_of_the_key() -> None:
    finetune = next(stage for stage in specs.stages() if isinstance(stage, Finetune))
    other = Finetune(
        **{**_fields(finetune), "labels": GroundTruth(task=finetune.task, split="val", data="new")}
    )
    assert finetune.identity()["labels"] == {"key": finetune.labels.key}
    assert other.key != finetune.key


def test_raising_the_version_changes_the_key() -> None:
    class First(Stage):
        value: int = 0

    class Second(First):
        version = 2

    Second.__qualname__ = First.__qualname__
    assert First().identity() | {"version": 2} == Second().identity()
    assert First().key != Second().key


def test_nothing_of_the_runtime_is_in_a_stage_or_sweep() -> None:
    where_and_how = set(Runtime.model_fields) | set(StageContext.__slots__)  # pyright: ignore
    where_and_how |= {
        "num_workers",
        "gpus_per_worker",
        "cpus_per_worker",
        "micro_batch_size",
        "num_replicas",
    }
    where_and_how -= {"inputs", "progress", "train", "serve"}
    for spec in [*specs.stages(), *specs.plain()]:
        assert not where_and_how & set(type(spec).model_fields), type(spec)
    assert not where_and_how & set(Sweep.model_fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, print, object(), {1: 2}])
def test_what_has_no_stable_form_cannot_be_hashed(value: object) -> None:
    with pytest.raises(TypeError, match="cannot hash"):
        digest(value)


def test_a_key_is_the_same_in_every_process_and_version_of_the_code() -> None:
    golden = {type(spec).__name__: identity(spec) for spec in specs.stages()}
    assert golden == GOLDEN


def _fields(spec: BaseModel) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in type(spec).model_fields}


GOLDEN = {
    "Prompts": "d616a5bd7f3c878d",
    "GroundTruth": "9013aab648eaa060",
    "Pretrain": "8cf42fe661b88112",
    "Tokens": "fc69cc7b4b7de37e",
    "Finetune": "562f5b91dc774286",
    "Features": "61c7a8bc21142e5a",
    "Probe": "d673f6bac98c465b",
    "GenerativeFinetune": "edef92c18703ceab",
    "Prompted": "72f1b42461a388e9",
    "Debate": "7d3286d24054cceb",
    "ShuffledTranscripts": "48711f9d75824294",
    "PermutedTranscripts": "e32f95e8ee015305",
    "Ensemble": "b5d4126eea908676",
    "ShuffledLabels": "61edcc9cfec8eb93",
    "ConfidentSelection": "c065230b887e4425",
    "MixedLabels": "45457064471ec39d",
    "SyntheticErrors": "7df341b0aef9522a",
    "StatedLabels": "87ac7d8924e07409",
    "ProbeRelabel": "05c742d9aac9ffb9",
    "OverlapDensity": "d33684b2dc0d51d4",
    "EMPosterior": "93cf7ba9ffe0d147",
    "SimulableSupervisor": "f259357e80ce7f3e",
    "Difficulty": "46487d2996c3b024",
    "MemberLabels": "a2c19713eac522a5",
    "Anchor": "f5582ab7f03f7ee5",
    "AlignerLabels": "4d1faed731a6480b",
    "SelectedGeneration": "4e749e031beec9c0",
    "EasyLabels": "6d4b56d3435f2260",
    "StyleClassifier": "ffd24e59e55788b6",
    "Evaluate": "6521d48eecebf9b1",
}
"""Keys of `specs.stages()`. A change here means that stored artifacts are not found again: raise a
`version` on purpose."""
