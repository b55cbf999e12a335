import asyncio
from pathlib import Path

from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, ignore_progress, run_serve_stage, run_stage
from tests.toys import Chat, Number, Sum, read
from w2s.training.parallel import Replicas


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
    assert "number 9" in outcome.cause


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
