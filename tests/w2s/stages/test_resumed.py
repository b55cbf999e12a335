"""Stages that are cut off and go on from the checkpoint in the store, through `run_stage`."""

import json
import threading
from pathlib import Path

import pytest

from sweeps import checkpoints, worker
from sweeps.checkpoints import StageCheckpoints
from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, run_stage
from tests.w2s.stages.toy_task import run, save_model, tokens_of, truth
from w2s.losses.confidence import Confidence
from w2s.losses.xent import Xent
from w2s.models.source import PretrainedModel
from w2s.stages.base import Stage
from w2s.stages.finetune import Finetune
from w2s.stages.generative import GenerativeFinetune
from w2s.training.config import GenerativeConfig, TrainConfig

AT_EVERY_STEP = Conditions(checkpoint_s=0.0)
NAMES = ["best of nine checkpoints", "adapters", "language model"]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """Trainings of 18 updates; all leave their weights."""
    model: PretrainedModel = save_model(tmp_path_factory.mktemp("model"))
    shared = {
        "model": model,
        "tokens": tokens_of(model),
        "labels": truth("strong_train"),
        "train_split": "strong_train",
        "seed": 0,
        "save_weights": True,
    }
    best = {"num_checkpoints": 9, "checkpoint": "best_val"}
    recipe = {"learning_rate": 3e-3, "epochs": 6, "batch_size": 8}
    return {
        "best of nine checkpoints": Finetune.model_validate(
            {
                **shared,
                "loss": Confidence(),
                "val_labels": truth("val"),
                "train": TrainConfig.model_validate({**recipe, **best}),
            }
        ),
        "adapters": Finetune.model_validate(
            {**shared, "loss": Xent(), "train": {**recipe, "mode": "lora"}}
        ),
        "language model": GenerativeFinetune(
            model=model,
            tokens=tokens_of(model),
            train=GenerativeConfig(learning_rate=3e-3, epochs=6, batch_size=8),
            seed=0,
        ),
    }


@pytest.fixture(scope="module")
def undisturbed(
    stages: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    store = ArtifactStore(str(tmp_path_factory.mktemp("undisturbed")))
    return {name: run(store, stage) for name, stage in stages.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """What a stage left; how it ran is told elsewhere."""
    records = ("stage.json", "metrics.jsonl", "manifest.json")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in records)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def steps_of(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def cut_off(stage: Stage, store: ArtifactStore, after: int) -> None:
    """Run a stage until it reports a step, with the checkpoints it has begun written."""

    def report(step: int, total: int, metrics: dict[str, float]) -> bool:
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()
        return step < after

    assert run_stage(stage, store, AT_EVERY_STEP, report).cancelled
    assert not store.has(stage)


@pytest.mark.parametrize("after", [3, 11, 18])
@pytest.mark.parametrize("name", NAMES)
def test_stage_goes_on_and_leaves_what_an_undisturbed_one_leaves(
    stages: dict[str, Stage],
    undisturbed: dict[str, Path],
    store: ArtifactStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    after: int,
) -> None:
    monkeypatch.setattr(worker, "REPORT_INTERVAL_S", 0.0)
    monkeypatch.setattr(checkpoints, "LARGEST_SHARE", float("inf"))
    caplog.set_level("INFO")
    stage = stages[name]
    for source in stage.inputs:
        run(store, source)
    cut_off(stage, store, after)
    again: list[int] = []

    def report(step: int, total: int, metrics: dict[str, float]) -> bool:
        again.append(step)
        return True

    assert run_stage(stage, store, Conditions(checkpoint_s=60.0), report).record is not None
    assert "goes on from a checkpoint" in caplog.text
    assert min(again) >= after - 1
    assert contents(store.local(stage)) == contents(undisturbed[name])
    # Its curve is whole: no step is missing or told twice.
    assert steps_of(store.local(stage)) == steps_of(undisturbed[name])
    # Nothing is left for a next attempt.
    assert StageCheckpoints(stage, store, 0.0).load() is None


def test_short_stage_writes_no_checkpoint(stages: dict[str, Stage], store: ArtifactStore) -> None:
    stage = stages["adapters"]
    for source in stage.inputs:
        run(store, source)
    conditions = Conditions(checkpoint_s=3600.0)
    run_stage(stage, store, conditions, lambda step, total, metrics: step < 18)
    assert StageCheckpoints(stage, store, 0.0).load() is None


def test_training_stands_still_for_a_twentieth_of_the_time_at_most(
    stages: dict[str, Stage], store: ArtifactStore
) -> None:
    now = [0.0]
    kept = StageCheckpoints(stages["adapters"], store, 60.0, clock=lambda: now[0])
    due = []
    for now[0] in (59.0, 60.0):
        due.append(kept.due())
    now[0] = 70.0  # a copy of the state took ten seconds
    kept.save({}, {})
    kept.close()
    for now[0] in (269.0, 270.0):
        due.append(kept.due())
    assert due == [False, True, False, True]


def test_checkpoint_that_does_not_fit_is_dropped_and_the_stage_begins_anew(
    stages: dict[str, Stage], undisturbed: dict[str, Path], store: ArtifactStore
) -> None:
    stage = stages["adapters"]
    for source in stage.inputs:
        run(store, source)
    wrong = StageCheckpoints(stage, store, 0.0, extra=list)
    wrong.save({}, {"position": {"steps": 3}})
    wrong.close()
    outcome = run_stage(stage, store, AT_EVERY_STEP)
    assert outcome.retry
    assert outcome.cause.startswith("UnusableCheckpoint: a checkpoint does not fit its training")
    assert run_stage(stage, store, AT_EVERY_STEP).record is not None
    assert contents(store.local(stage)) == contents(undisturbed["adapters"])
