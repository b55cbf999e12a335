"""`w2s sync` writes what journals hold, where it was meant to go, and says what it cannot write."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.cli import main
from sweeps.journal import Journal
from sweeps.runs import sweep_entry
from tests.sweeps import synthetic

SUMMARY = synthetic.summary(("world 0",), 10)


def left(folder: Path, uri: str, name: str = "almanac") -> None:
    """What a run that could not reach MLflow leaves in a store."""
    journal = Journal(folder / "w2s_store" / ".tracking" / name, uri)
    journal.append(sweep_entry(SUMMARY))
    journal.close([sweep_entry(SUMMARY)])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # `w2s sync` has more patience than the tests that follow in this process.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")


def test_a_store_without_journals_has_nothing_to_write(capsys: pytest.CaptureFixture[str]):
    assert main(["sync"]) == 0
    assert "has anything that MLflow is missing" in capsys.readouterr().out


def test_a_journal_goes_where_it_was_meant_to_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    left(tmp_path, uri)
    assert main(["sync"]) == 0
    assert f"almanac: 1 of 1 entries are in {uri}" in capsys.readouterr().out
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(SUMMARY.name)
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert not list(tmp_path.glob("w2s_store/.tracking/*/*.jsonl"))
    assert main(["sync"]) == 0
    assert "has anything that MLflow is missing" in capsys.readouterr().out


def test_a_password_that_is_not_kept_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    left(tmp_path, "http://***@127.0.0.1:9")
    assert main(["sync"]) == 2
    assert "name it whole: --tracking-uri URI" in capsys.readouterr().err


def test_a_server_that_is_still_away_is_told_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    left(tmp_path, "http://127.0.0.1:9")
    assert main(["sync"]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert len(list(tmp_path.glob("w2s_store/.tracking/*/*.jsonl"))) == 1


def test_a_running_sweep_is_left_to_its_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    driver = Journal(tmp_path / "w2s_store" / ".tracking" / "almanac", "http://127.0.0.1:9")
    driver.append(sweep_entry(SUMMARY))
    assert main(["sync"]) == 0
    assert "almanac is running: its driver writes its log" in capsys.readouterr().out
    assert driver.path is not None
    assert driver.path.exists()
