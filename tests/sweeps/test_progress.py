"""What a run leaves about how it stands, and what `w2s status` makes of it."""

import json
import time
from pathlib import Path

import pytest

from sweeps import cli, progress
from sweeps.events import BrokerSnapshot, RunningStage, StageEvent, Waiting, Work
from sweeps.progress import ProgressFile, TrialLine
from sweeps.store import ArtifactStore

SWEEP = Path(__file__).parents[1] / "faults" / "tiny.toml"
TRIALS = [TrialLine("xs>l naive xent", "running", 1, 3, 0.71)]
SNAPSHOT = BrokerSnapshot(
    1000.0,
    {"finetune": {"running": 1, "planned": 3}},
    (RunningStage("k" * 16, "finetune-l-s0", "finetune", "train", 990.0, 50, 200, {"loss": 0.25}),),
    waiting=(Waiting("finetune", 3, "finetune-xl-s0", "inputs", "pretrain-xl"),),
    work={"finetune": Work("train", 1.0, 2.0, 3.0, 1, 4)},
)
FAILED = StageEvent(0, "failed", "f" * 16, "finetune-s-s0", "finetune", 5.0, cause="OSError: no")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def status(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["status", str(SWEEP), "--store", store.root]) == 0
    return capsys.readouterr().out


def test_progress_is_read_as_it_was_written(store: ArtifactStore) -> None:
    assert ProgressFile(store, "tiny").read() is None
    file = ProgressFile(store, "tiny")
    file.note(FAILED)
    file.write(SNAPSHOT, TRIALS)
    read = ProgressFile(store, "tiny").read()
    assert read is not None
    assert (read.snapshot, read.trials) == (SNAPSHOT, tuple(TRIALS))
    assert [(failure.name, failure.cause) for failure in read.failures] == [
        ("finetune-s-s0", "OSError: no")
    ]
    assert not file.is_due()


def test_a_failure_is_forgotten_when_the_stage_is_done_after_all(store: ArtifactStore) -> None:
    file = ProgressFile(store, "tiny")
    file.note(FAILED)
    file.note(StageEvent(1, "done", FAILED.key, FAILED.name, FAILED.kind, 6.0))
    file.write(SNAPSHOT, [], has_ended=True)
    read = file.read()
    assert read is not None
    assert read.failures == ()


def test_a_file_that_cannot_be_read_is_as_good_as_none(store: ArtifactStore) -> None:
    file = ProgressFile(store, "tiny")
    file.write(SNAPSHOT, TRIALS)
    path = Path(store.root, ".progress", "tiny.json")
    path.write_text(path.read_text()[:100])
    assert file.read() is None


def test_a_store_that_cannot_be_written_is_told_of_once(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    Path(store.root).mkdir()
    Path(store.root, ".progress").write_text("in the way")
    file = ProgressFile(store, "tiny")
    file.write(SNAPSHOT, TRIALS)
    file.write(SNAPSHOT, TRIALS)
    assert len(caplog.records) == 1


def test_status_shows_a_sweep_that_runs_in_another_process(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ProgressFile(store, "tiny")
    file.note(FAILED)
    file.write(SNAPSHOT, TRIALS)
    shown = status(store, capsys)
    for text in ("tiny runs on", "finetune-l-s0", "50/200", "3 finetune wait for pretrain-xl"):
        assert text in shown
    for text in ("xs>l naive xent", "failed: finetune-s-s0: OSError: no"):
        assert text in shown


def test_status_shows_what_the_store_has_and_what_failed_after_a_run(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ProgressFile(store, "tiny")
    file.note(FAILED)
    file.write(SNAPSHOT, TRIALS, has_ended=True)
    shown = status(store, capsys)
    assert "the last run ended after 0:00" in shown
    assert f"failed: finetune-s-s0 ({FAILED.key}): OSError: no" in shown
    assert "missing" in shown


def test_status_tells_of_a_run_that_fell_silent(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    ProgressFile(store, "tiny").write(SNAPSHOT, TRIALS)
    path = Path(store.root, ".progress", "tiny.json")
    content = json.loads(path.read_text())
    content["started"] = time.time() - progress.SILENT_S - 65
    content["written"] = time.time() - progress.SILENT_S - 5
    path.write_text(json.dumps(content))
    shown = status(store, capsys)
    assert "was last heard of 1:05 ago, after 1:00" in shown
