import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, ignore_progress, run_serve_stage, run_stage
from tests.toys import Chat, Number, Sum, read
from w2s.stages.base import Lane, Stage, StageContext
from w2s.training.parallel import Replicas


class Hungry(Stage):
    """A train stage that runs out of memory once, at a micro-batch size."""

    lane: ClassVar[Lane] = "train"

    tag: str
    """Tells stages apart."""
    model: str
    """Base model it holds."""
    full_at: int | None = None
    """Size that it halves; None: none."""

    @property
    def base_model(self) -> str:
        return self.model

    def run(self, context: StageContext) -> None:
        context.progress(1, 2, {"loss": 1.0})
        if self.full_at is not None:
            context.shrink(self.full_at // 2)
        size = json.dumps({"value": context.micro_batch_size})
        (context.output_dir / "number.json").write_text(size)


class Silence(Stage):
    """A serve stage that waits for ever."""

    lane: ClassVar[Lane] = "serve"

    async def run(self, context: StageContext) -> None:  # pyright: ignore
        await asyncio.Event().wait()


class Deaf(Stage):
    """A stage that waits for ever and says nothing."""

    def run(self, context: StageContext) -> None:
        time.sleep(3600)


def test_stage_runs_on_its_inputs_and_is_committed(store: ArtifactStore) -> None:
    sources = (Number(value=2), Number(value=5))
    for source in sources:
        run_stage(source, store)
    outcome = run_stage(Sum(inputs_=sources, tag="a"), store)
    assert read(store.local(Sum(inputs_=sources, tag="a"))) == 7
    assert outcome.record is not None
    assert outcome.record.curve[-1].metrics == {"total": 7.0}


def test_error_becomes_an_outcome_and_nothing_is_stored(store: ArtifactStore) -> None:
    outcome = run_stage(Number(value=3, fails=True), store)
    assert outcome.cause == "ArithmeticError: no number 3"
    assert "toys.py" in outcome.traceback
    assert not store.has(Number(value=3, fails=True))


def test_missing_input_is_the_cause(store: ArtifactStore) -> None:
    outcome = run_stage(Sum(inputs_=(Number(value=9),), tag="a"), store)
    assert outcome.cause.startswith("DamagedArtifact: the artifact of stage number 9")
    assert outcome.damaged == Number(value=9).key


def test_stage_that_is_there_does_not_run_again(store: ArtifactStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stage = Sum(tag="a", log=str(log))
    first = run_stage(stage, store)
    assert run_stage(stage, store).record == store.record(stage)
    assert first.record is not None
    assert len(log.read_text().splitlines()) == 1


def test_only_rank_0_commits(store: ArtifactStore) -> None:
    outcome = run_stage(Sum(tag="a"), store, Conditions(replicas=Replicas(rank=1, size=2)))
    assert outcome.record is not None
    assert not store.has(Sum(tag="a"))


def test_unwanted_stage_stops_at_its_next_report(store: ArtifactStore, tmp_path: Path) -> None:
    stage = Sum(tag="a", gate=str(tmp_path / "never"))
    outcome = run_stage(stage, store, report=lambda step, total, metrics: False)
    assert outcome.cancelled
    assert not store.has(stage)


def test_serve_stage_goes_on_where_a_failed_attempt_stopped(store: ArtifactStore) -> None:
    def attempt() -> str:
        return asyncio.run(
            run_serve_stage(Chat(fails_at=2), store, Conditions(), ignore_progress)
        ).cause

    assert attempt() == "ArithmeticError: line 2"
    assert attempt() == ""
    lines = (store.local(Chat(fails_at=2)) / "lines.txt").read_text().splitlines()
    assert lines == ["0 after 0", "1 after 0", "2 after 2", "3 after 2"]


def test_stage_that_takes_too_long_is_stopped_and_not_tried_again(
    store: ArtifactStore, tmp_path: Path
) -> None:
    slow = Sum(tag="a", gate=str(tmp_path / "never"))
    outcome = run_stage(slow, store, Conditions(timeout_s=0.1))
    assert outcome.cause.startswith("StageTimeout: not done after 0.1 s: raise `runtime.stage_ti")
    assert not outcome.retry
    served = asyncio.run(run_serve_stage(Silence(), store, Conditions(timeout_s=0.1)))
    assert served.cause.startswith("StageTimeout: not done after 0.1 s")


def test_process_of_a_stage_that_hangs_ends_itself(store: ArtifactStore) -> None:
    script = f"""
from sweeps import worker
from sweeps.store import ArtifactStore
from tests.sweeps.test_worker import Deaf
worker.STUCK_GRACE_S = 0.0
worker.run_stage(Deaf(), ArtifactStore({store.root!r}), worker.Conditions(timeout_s=0.1))
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert ended.returncode == 1
    assert not store.has(Deaf())


def test_smaller_micro_batch_is_noted_and_kept_for_the_model(store: ArtifactStore) -> None:
    conditions = Conditions(micro_batch_size=32)
    stages = [
        Hungry(tag="first", model="a", full_at=32),
        Hungry(tag="second", model="a"),
        Hungry(tag="third", model="b"),
    ]
    outcomes = [run_stage(stage, store, conditions) for stage in stages]
    assert [read(store.local(stage)) for stage in stages] == [32, 16, 32]
    record = outcomes[0].record
    assert record is not None
    point = record.curve[-1]
    assert (point.step, point.metrics) == (1, {"micro_batch_size": 16.0})


@pytest.mark.parametrize(
    ("error", "retry"), [(ConnectionError("away"), True), (FloatingPointError("nan"), False)]
)
def test_outcome_says_whether_the_error_may_go_away(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, error: Exception, retry: bool
) -> None:
    def raises(self: Number, context: StageContext) -> None:
        raise error

    monkeypatch.setattr(Number, "run", raises)
    assert run_stage(Number(value=4), store).retry is retry
