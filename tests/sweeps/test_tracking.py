"""MLflow holds each run of a sweep once, whatever happened in between."""

import json
import socket
from pathlib import Path

import pytest

from sweeps import report
from sweeps.events import CurvePoint, StageEvent, StageRecord
from sweeps.results import SweepResults, SweepSummary, TrialResult
from sweeps.runs import MetricValue, RunEntry, flattened, stage_entry, sweep_entry, trial_entry
from sweeps.tracking import (
    REPORT_PATH,
    RESULTS_PATH,
    Tracker,
    log_report,
    results_folder,
    run_pages,
    trial_pages,
)
from sweeps.writer import Writer
from tests.faults.sweeping import wait_for
from tests.sweeps import synthetic
from tests.sweeps.test_journal import no_file_longer_than
from w2s.errors import UserError


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: to make one takes MLflow seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def summary(request: pytest.FixtureRequest) -> SweepSummary:
    """A sweep of its own for each test."""
    made = synthetic.summary(("world 0",), 10)
    return made.model_copy(
        update={"name": request.node.name, "sweep_key": request.node.name[-16:].ljust(16, "0")}
    )


@pytest.fixture
def trial() -> TrialResult:
    return synthetic.World("world 0", 10, 0).trial("pairs", "xs", "l")


def done(key: str = "ab" * 8, started: float = 1e9) -> StageEvent:
    record = StageRecord(
        key=key,
        name="finetune-xs-xent-s0",
        kind="finetune",
        identity={"class": "Finetune", "seed": 0, "train": {"betas": [0.9, 0.98], "model": None}},
        started=started,
        finished=started + 12,
        host="here",
        curve=tuple(CurvePoint(s, 20, {"loss": 1.0 / (s + 1)}, started + s) for s in range(20)),
    )
    return StageEvent(0, "done", key, record.name, "finetune", started + 12, record)


def log_all(tracker: Tracker, summary: SweepSummary, trial: TrialResult) -> None:
    prints = {"world 0": "f" * 64}
    tracker.log(sweep_entry(summary, fingerprints=prints))
    tracker.log(stage_entry(summary, done()))
    tracker.log(
        trial_entry(
            summary,
            trial,
            metrics={"test_accuracy": 0.7, "pgr": 0.2},
            by_seed={"test_accuracy": [0.69, 0.7, 0.71]},
            started=1e9,
            finished=1e9 + 5,
        )
    )
    ended = sweep_entry(
        summary, fingerprints=prints, metrics={"num_trials": 1.0}, status="FINISHED"
    )
    tracker.log(ended)


def runs_of(uri: str, summary: SweepSummary):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(summary.name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return client, {run.data.tags["w2s.identity"]: run for run in found}, len(found)


def test_a_sweep_has_a_parent_a_child_per_trial_and_a_run_per_stage(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    with Tracker(uri, tmp_path / "journal") as tracker:
        log_all(tracker, summary, trial)
    client, runs, _ = runs_of(uri, summary)
    parent = runs["sweep"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["tasks.0.kind"] == "almanac"
    assert parent.inputs is not None
    assert parent.inputs.dataset_inputs[0].dataset.digest == "f" * 36

    child = runs[f"trial:{trial.trial_id}"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.run_name == "xs>l naive xent"
    assert child.data.metrics["pgr"] == 0.2
    assert child.data.params["weak_parameters"] == str(3 * 18_000)
    assert child.data.tags["w2s.stages"].split() == list(trial.evaluations)
    by_seed = client.get_metric_history(child.info.run_id, "test_accuracy_by_seed")
    assert [(m.step, m.value) for m in by_seed] == [(0, 0.69), (1, 0.7), (2, 0.71)]

    stage = runs[f"stage:{'ab' * 8}:1000000000.000"]
    assert (stage.info.start_time, stage.info.end_time) == (1_000_000_000_000, 1_000_000_012_000)
    assert stage.data.params["train.betas"] == "0.9, 0.98"
    assert len(client.get_metric_history(stage.info.run_id, "loss")) == 20


def test_the_same_sweep_again_makes_no_run_and_no_metric(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    for _ in range(2):
        with Tracker(uri, tmp_path / "journal") as tracker:
            log_all(tracker, summary, trial)
            problems = tracker.close()
        assert problems == []
    client, runs, number = runs_of(uri, summary)
    assert number == 3
    child = runs[f"trial:{trial.trial_id}"]
    assert len(client.get_metric_history(child.info.run_id, "pgr")) == 1
    assert len(client.get_metric_history(child.info.run_id, "test_accuracy_by_seed")) == 3


def test_a_failed_trial_that_succeeds_later_is_the_same_run(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    failed = trial.model_copy(update={"status": "failed", "cause": "ValueError: no", "keys": ()})
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(sweep_entry(summary))
        tracker.log(trial_entry(summary, failed, started=1.0, finished=2.0))
    _, runs, _ = runs_of(uri, summary)
    before = runs[f"trial:{trial.trial_id}"]
    assert (before.info.status, before.data.tags["w2s.cause"]) == ("FAILED", "ValueError: no")
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(trial_entry(summary, trial, metrics={"pgr": 0.5}, started=3.0, finished=4.0))
    _, runs, _ = runs_of(uri, summary)
    after = runs[f"trial:{trial.trial_id}"]
    assert after.info.run_id == before.info.run_id
    assert (after.info.status, after.data.metrics["pgr"]) == ("FINISHED", 0.5)
    assert "w2s.cause" not in after.data.tags


def test_a_stage_that_runs_again_is_another_run(uri: str, summary: SweepSummary, tmp_path: Path):
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(sweep_entry(summary))
        tracker.log(stage_entry(summary, done(started=1e9)))
        tracker.log(stage_entry(summary, done(started=1.1e9)))
    assert runs_of(uri, summary)[2] == 3


def test_only_stages_that_ran_have_a_run():
    summary = synthetic.summary()
    event = StageEvent(0, "cached", "ab" * 8, "n", "finetune", 1.0)
    assert stage_entry(summary, event) is None
    by_input = StageEvent(0, "failed", "ab" * 8, "n", "finetune", 1.0, cause="an input failed")
    assert stage_entry(summary, by_input) is None
    itself = StageEvent(0, "failed", "ab" * 8, "n", "finetune", 1.0, None, "E: x", "Traceback ...")
    entry = stage_entry(summary, itself)
    assert entry is not None
    assert entry.status == "FAILED"


def test_what_an_absent_server_missed_is_written_by_the_next_run(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    journal = tmp_path / "journal"
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        tracker = Tracker(away, journal)
        log_all(tracker, summary, trial)
        problems = tracker.close(timeout_s=30)
    # The end of the sweep stands for its beginning: they are states of one run.
    assert "3 entries are not in MLflow" in problems[0]
    assert len(list(journal.glob("*.jsonl"))) == 1
    with Tracker(uri, journal):
        pass
    assert not list(journal.glob("*.jsonl"))
    assert runs_of(uri, summary)[2] == 3


def test_one_refused_entry_does_not_hold_up_the_rest(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path, monkeypatch
):
    write = Writer.write

    def fussy(self, entry):
        if isinstance(entry, RunEntry) and entry.identity.startswith("stage:"):
            raise ValueError("not this one")
        write(self, entry)

    monkeypatch.setattr(Writer, "write", fussy)
    tracker = Tracker(uri, tmp_path / "journal")
    log_all(tracker, summary, trial)
    problems = tracker.close()
    assert problems[0] == "MLflow refuses run 'finetune xs xent s0': ValueError: not this one"
    assert problems[1].startswith("1 entries are not in MLflow")
    assert runs_of(uri, summary)[2] == 2
    monkeypatch.undo()
    with Tracker(uri, tmp_path / "journal") as tracker:
        assert tracker.close() == []
    assert runs_of(uri, summary)[2] == 3


def test_a_damaged_journal_line_is_skipped(uri: str, summary: SweepSummary, tmp_path: Path):
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / "1-here-1.jsonl").write_text(
        '{"tracking_uri": ""}\n' + sweep_entry(summary).model_dump_json() + '\n{"experiment": "alm'
    )
    with Tracker(uri, journal):
        pass
    assert runs_of(uri, summary)[2] == 1


def test_results_come_back_by_name_and_by_key(uri: str, summary: SweepSummary, tmp_path: Path):
    results = synthetic.results(num_rows=10, tasks=("world 0",))
    results.save(tmp_path / "results")
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(sweep_entry(summary))
        tracker.log_folder(summary, tmp_path / "results", RESULTS_PATH)
    for name in (summary.name, summary.sweep_key):
        folder, _ = results_folder(uri, name)
        assert SweepResults.load(folder).trials == results.trials
    with pytest.raises(UserError, match=r"no sweep 'nosuch' in .*; found: .*by_name_and_by_key"):
        results_folder(uri, "nosuch")


def test_a_report_is_built_from_mlflow_and_attached_to_the_sweep(
    uri: str, summary: SweepSummary, tmp_path: Path
):
    results = synthetic.results(num_rows=40, tasks=("world 0",))
    results.save(tmp_path / "results")
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(sweep_entry(summary))
        tracker.log_folder(summary, tmp_path / "results", RESULTS_PATH)
    built = report.build(uri, summary.name)
    assert built.html == report.of_results(results).html
    built.write(tmp_path / "report")
    log_report(uri, built.run_id, tmp_path / "report")
    client, runs, _ = runs_of(uri, summary)
    assert built.run_id == runs["sweep"].info.run_id
    logged = {item.path for item in client.list_artifacts(built.run_id, REPORT_PATH)}
    assert {"report/report.html", "report/results.csv", "report/figures"} <= logged


def test_the_ui_has_a_page_of_trials_for_the_sweep(uri: str, summary: SweepSummary, tmp_path: Path):
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(sweep_entry(summary))
    client, runs, _ = runs_of(uri, summary)
    number = runs["sweep"].info.experiment_id
    page = trial_pages(uri, "http://127.0.0.1:5000/")[summary.name]
    assert page == f"http://127.0.0.1:5000/#/experiments/{number}/runs?viewStateShareKey=trials"
    view = json.loads(client.get_experiment(number).tags["mlflow.sharedViewState.trials"])
    assert "metrics.`pgr`" in view["selectedColumns"]


def test_a_trial_run_is_named_by_what_tells_it_from_others(trial: TrialResult):
    summary = synthetic.summary()  # Two tasks.
    searched = trial.model_copy(update={"hyperparameters": {"loss.max_weight": 0.51234}})
    entry = trial_entry(summary, searched, started=1.0, finished=2.0)
    assert entry.name == "world 0 xs>l naive xent (max_weight 0.512)"


def test_a_sweep_without_results_says_so(uri: str, summary: SweepSummary, tmp_path: Path):
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(sweep_entry(summary))
    with pytest.raises(UserError, match="has left no results"):
        results_folder(uri, summary.name)


def test_the_run_of_a_sweep_is_the_same_whichever_of_its_runs_is_written_first(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    found = []
    for name in ("first", "last"):
        of = summary.model_copy(update={"name": f"{summary.name}-{name}", "sweep_key": name})
        entries = [sweep_entry(of), trial_entry(of, trial, started=5.0, finished=6.0)]
        with Tracker(uri, tmp_path / name) as tracker:
            for entry in entries if name == "first" else reversed(entries):
                tracker.log(entry)
        run = runs_of(uri, of)[1]["sweep"]
        found.append((run.info.start_time, run.data.tags.keys(), run.data.params))
        assert run.info.start_time == round(summary.started * 1000)
    assert found[0][1:] == found[1][1:]


def test_numbers_that_are_not_finite_are_left_out():
    entry = RunEntry(
        experiment="e",
        sweep_key="k",
        identity="sweep",
        name="n",
        metrics=(MetricValue("a", float("nan")), MetricValue("b", 1.0), MetricValue("c", -1e999)),
    )
    assert [metric.name for metric in entry.metrics] == ["b"]


def test_flattening_joins_plain_lists_and_drops_what_is_empty():
    nested = {"a": {"b": [1, 2]}, "c": [{"d": None}, {"d": 0}], "e": "", "f": [], "g": False}
    assert dict(flattened(nested)) == {"a.b": "1, 2", "c.1.d": "0", "g": "False"}


def test_the_runs_of_trials_have_pages_once_they_are_written(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    with Tracker(uri, tmp_path / "journal") as tracker:
        log_all(tracker, summary, trial)
        tracker.settle()
        found = run_pages(uri, summary)
    _, runs, _ = runs_of(uri, summary)
    run = runs[f"trial:{trial.trial_id}"]
    page = f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert found == {trial.trial_id: page}
    unknown = summary.model_copy(update={"name": "never run"})
    assert run_pages(uri, unknown) == {}


def test_a_page_of_a_server_is_on_the_server_and_one_that_is_away_has_none(
    summary: SweepSummary, caplog: pytest.LogCaptureFixture
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert run_pages(f"http://127.0.0.1:{port}", summary) == {}
    assert "no links to runs" in caplog.text


def test_a_run_that_is_there_twice_is_merged_into_one(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    """Such as a request that was carried out after its sender had given up on it."""
    with Tracker(uri, tmp_path / "journal") as tracker:
        log_all(tracker, summary, trial)
    client, runs, _ = runs_of(uri, summary)
    identity = f"trial:{trial.trial_id}"
    for copied in ("sweep", identity):
        tags = {"w2s.sweep_key": summary.sweep_key, "w2s.identity": copied}
        client.create_run(runs["sweep"].info.experiment_id, tags=tags)
    assert runs_of(uri, summary)[2] == 5
    with Tracker(uri, tmp_path / "journal") as tracker:
        log_all(tracker, summary, trial)
        assert tracker.close() == []
    _, merged, number = runs_of(uri, summary)
    assert number == 3
    assert {key: run.info.run_id for key, run in merged.items()} == {
        key: run.info.run_id for key, run in runs.items()
    }
    assert merged[identity].data.tags["mlflow.parentRunId"] == merged["sweep"].info.run_id


def test_a_run_deleted_by_hand_is_made_again(
    uri: str, summary: SweepSummary, trial: TrialResult, tmp_path: Path
):
    tracker = Tracker(uri, tmp_path / "journal")
    log_all(tracker, summary, trial)
    assert tracker.settle(timeout_s=120)
    client, runs, _ = runs_of(uri, summary)
    client.delete_run(runs["sweep"].info.run_id)
    ended = sweep_entry(summary, metrics={"num_trials": 2.0}, status="FINISHED")
    tracker.log(ended)
    assert tracker.close() == []
    _, again, number = runs_of(uri, summary)
    assert number == 3
    assert again["sweep"].data.metrics["num_trials"] == 2.0


def test_a_full_disk_loses_nothing_that_is_in_memory(
    summary: SweepSummary, trial: TrialResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    database = f"sqlite:///{tmp_path}/mlflow.db"
    Writer(database).answers()
    with no_file_longer_than(1000):
        tracker = Tracker(database, tmp_path / "journal")
        log_all(tracker, summary, trial)
        assert "cannot be written ([Errno 27] File too large)" in caplog.text
        assert not tracker.settle(timeout_s=2)
    wait_for(lambda: tracker.num_pending == 0, "every entry in MLflow")
    assert tracker.close() == []
    assert runs_of(database, summary)[2] == 3


def test_an_entry_says_nothing_that_a_database_cannot_hold(
    uri: str, summary: SweepSummary, tmp_path: Path
):
    entry = RunEntry(
        experiment=summary.name,
        sweep_key=summary.sweep_key,
        identity="sweep",
        name="n",
        params={"a//b": "1", "../c": "2", "d": "nul \0 and half a pair \ud800"},
        metrics=(MetricValue("x/", 1.0), MetricValue(".", 2.0)),
    )
    with Tracker(uri, tmp_path / "journal") as tracker:
        tracker.log(entry)
        assert tracker.close() == []
    data = runs_of(uri, summary)[1]["sweep"].data
    assert data.params == {"_a__b": "1", "_.._c": "2", "d": "nul \ufffd and half a pair ?"}
    assert data.metrics == {"_x_": 1.0, "_.": 2.0}
