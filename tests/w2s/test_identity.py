"""Identity: what is in a key, and that nothing else is."""

import math
from typing import Any

import pytest
from pydantic import BaseModel

from sweeps.config import Sweep
from sweeps.runtime import Runtime
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


def test_only_places_whose_content_has_a_fingerprint_and_trust_that_is_off_are_no_identity() -> (
    None
):
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
    places = {(name, "path") for name in ("PretrainedModel", "TextSource", *tables)}
    assert found == {*places, ("PretrainedModel", "trust_remote_code")}


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
    "Questions": "04be2bb4732a4804",
    "KnowledgeDemos": "94d66b826681b89a",
    "Knowledge": "858b02e967ae8fc9",
    "Critique": "ff7b108bbd3f38fc",
    "Judged": "d4b15bbb15aa419a",
    "FoldTruth": "5497a23839b115ab",
    "CrossFitted": "75bb56e692b0c3f4",
    "BalancedLabels": "419865009c3b443e",
    "Prompts": "d616a5bd7f3c878d",
    "GroundTruth": "9013aab648eaa060",
    "Pretrain": "cc780f2b241ba18c",
    "Tokens": "ec9b51f8d2584941",
    "Finetune": "8a0bff097819189a",
    "Features": "086c20e69e8ef0ee",
    "Probe": "018ecf56413816dd",
    "GenerativeFinetune": "c5ac791512831329",
    "Prompted": "fe86473216dd32cb",
    "Debate": "1d34190bcaed37a9",
    "ShuffledTranscripts": "f1f11d32303ade7d",
    "PermutedTranscripts": "17cbd16259940a31",
    "Ensemble": "fb9f44ffa0bcf6fe",
    "ResampledTruth": "555218dd80f322cc",
    "HeldOutTruth": "98089d6ad76d0705",
    "Reweighted": "a897dbc653b72950",
    "Boosted": "f63b81bfd80e78b8",
    "Residual": "973756a0b1448835",
    "ShuffledLabels": "31d464819833f730",
    "MemberLabels": "a2c19713eac522a5",
    "ConfidentSelection": "cdf13c7a2e9babfd",
    "Anchor": "f5582ab7f03f7ee5",
    "AlignerLabels": "4d1faed731a6480b",
    "SelectedGeneration": "4e749e031beec9c0",
    "MixedLabels": "01403451f0409d5a",
    "SyntheticErrors": "876fc5521f446886",
    "StatedLabels": "37a920dedc5fd9b8",
    "ProbeRelabel": "832cb807f925d1fe",
    "OverlapDensity": "f8c90f351e7fbdd0",
    "EMPosterior": "6dc0f8e544838d68",
    "SimulableSupervisor": "d31cec3295933835",
    "Difficulty": "43870c9e24919f34",
    "EasyLabels": "ff394de563243e10",
    "StyleClassifier": "0ab0346d63e5721b",
    "Evaluate": "2ad853c83a152e39",
    "Oversight": "e15771277be33a2e",
}
"""Keys of `specs.stages()`. A change here means that stored artifacts are not found again: raise a
`version` on purpose."""
