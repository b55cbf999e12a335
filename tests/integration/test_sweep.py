"""The main job on real components: Ray Train, vLLM behind Ray Serve, Ray Tune with Optuna, MLflow.

The command runs as a user's process would. Run twice, it runs nothing the second time and gives the
same numbers.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps.load import load
from sweeps.plan import Plan, Planner
from sweeps.results import SweepResults
from sweeps.search import recorded_points
from sweeps.store import ArtifactStore
from w2s.stages.checkpoints import TRAINING_FILE
from w2s.stages.debate import Debate
from w2s.stages.finetune import Finetune
from w2s.stages.transcripts import read_transcripts

pytestmark = [pytest.mark.ray, pytest.mark.vllm]

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).parent / "small.toml"


def w2s(folder: Path, *arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        check=False,
    )


@dataclass(frozen=True)
class Twice:
    """The same command, run twice in one folder."""

    folder: Path
    first: str
    second: str
    first_csv: str
    second_csv: str
    modified: dict[str, float]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    folder = tmp_path_factory.mktemp("sweep")
    texts, csvs = [], []
    modified: dict[str, float] = {}
    for _ in range(2):
        done = w2s(folder, "run", str(FILE))
        assert done.returncode == 0, done.stdout[-5000:]
        texts.append(done.stdout)
        csvs.append((folder / "reports" / "small" / "results.csv").read_text())
        modified = modified or _modified(folder)
    return Twice(folder, texts[0], texts[1], csvs[0], csvs[1], modified)


def _modified(folder: Path) -> dict[str, float]:
    store = folder / "w2s_store"
    return {
        str(path): path.stat().st_mtime
        for path in store.glob("*/*/*")
        if not path.parts[-3].startswith(".")
    }


def test_every_stage_of_the_plan_ran_once_and_is_in_the_store(twice: Twice) -> None:
    sweep, _ = load(FILE)
    planner = Planner(sweep)
    store = ArtifactStore(str(twice.folder / "w2s_store"))
    points = recorded_points(planner, twice.folder / "w2s_store" / ".studies")
    assert points is not None
    plan = Plan(
        root for point in points for roles in planner.roles(point).values() for root in roles
    )
    assert store.present(plan.stages.values()) == set(plan.stages)
    found = re.search(r"(\d+) stages ran, (\d+) were cached", twice.first)
    assert found
    assert found.groups() == (str(len(plan)), "0")


def test_the_second_run_runs_nothing_and_gives_the_same_numbers(twice: Twice) -> None:
    assert "everything is cached" in twice.second
    assert "0 stages ran" in twice.second
    assert twice.second_csv == twice.first_csv
    assert _modified(twice.folder) == twice.modified


def test_debates_were_generated_by_the_served_model_for_every_row(twice: Twice) -> None:
    store = ArtifactStore(str(twice.folder / "w2s_store"))
    debates = [stage for stage in _plan(twice).stages.values() if isinstance(stage, Debate)]
    assert len(debates) == 4
    for stage in debates:
        frame = read_transcripts(store.local(stage))
        assert len(frame) == 4 * (16 + 20 + 10 + 25)
        assert frame["text"].str.contains("pro:").all()
        assert frame["text"].str.contains("con:").all()
    orders = read_transcripts(store.local(debates[0]))["text"].str.startswith("pro:")
    assert 0.3 < orders.mean() < 0.7
    first, second = (read_transcripts(store.local(stage))["text"] for stage in debates[:2])
    assert (first != second).to_numpy().mean() > 0.9


def _plan(twice: Twice) -> Plan:
    planner = Planner(load(FILE)[0])
    points = recorded_points(planner, twice.folder / "w2s_store" / ".studies")
    assert points is not None
    return Plan(
        root for point in points for roles in planner.roles(point).values() for root in roles
    )


def runs(twice: Twice) -> dict[str, list[Run]]:
    client = MlflowClient(tracking_uri=f"sqlite:///{twice.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    found: dict[str, list[Run]] = {"sweep": [], "trial": [], "stage": []}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        found[run.data.tags["w2s.identity"].split(":")[0]].append(run)
    return found


def test_mlflow_holds_one_parent_a_child_per_trial_and_a_run_per_stage_that_ran(
    twice: Twice,
) -> None:
    found = runs(twice)
    (parent,) = found["sweep"]
    assert parent.info.status == "FINISHED"
    assert len(found["trial"]) == 2 + 2 + 5 + 2 + 1 + 1
    assert (
        len({run.data.tags["w2s.key"] for run in found["stage"]})
        == len(found["stage"])
        == len(_plan(twice))
    )
    for run in [*found["trial"], *found["stage"]]:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
    for run in found["trial"]:
        assert {"test_accuracy", "val_accuracy", "floor", "ceiling"} <= set(run.data.metrics)
        assert {"weak", "strong", "method", "loss"} <= set(run.data.params)
        used = set(run.data.tags["w2s.stages"].split())
        assert used <= {stage.data.tags["w2s.key"] for stage in found["stage"]}
    trained = [run for run in found["stage"] if run.data.tags["w2s.stage"] == "finetune"]
    assert all("loss" in run.data.metrics for run in trained)


def test_the_parent_run_carries_report_results_data_and_spec(twice: Twice) -> None:
    (parent,) = runs(twice)["sweep"]
    client = MlflowClient(tracking_uri=f"sqlite:///{twice.folder}/mlflow.db")
    paths = {
        item.path
        for folder in ("report", "results")
        for item in client.list_artifacts(parent.info.run_id, folder)
    }
    assert {"report/report.html", "report/report.md", "report/results.csv"} <= paths
    assert {"results/trials.json", "results/rows.parquet", "results/summary.json"} <= paths
    assert parent.inputs is not None
    assert [item.dataset.name for item in parent.inputs.dataset_inputs] == ["almanac"]


def test_the_report_can_be_made_again_from_mlflow_alone(twice: Twice) -> None:
    done = w2s(twice.folder, "report", "small", "--out", "again")
    assert done.returncode == 0, done.stdout
    assert (twice.folder / "again" / "results.csv").read_text() == twice.first_csv
    page = (twice.folder / "again" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert 'src="http' not in page


def test_pgr_of_the_table_is_what_the_rows_say(twice: Twice) -> None:
    frame = pd.read_csv(twice.folder / "reports" / "small" / "results.csv")
    assert len(frame) == 2 + 1 + 5 + 2 + 1 + 1
    with_ratio = frame[frame["pgr"].notna()]
    expected = (with_ratio["student"] - with_ratio["floor"]) / (
        with_ratio["ceiling"] - with_ratio["floor"]
    )
    np.testing.assert_allclose(with_ratio["pgr"], expected, atol=1e-6)


def test_every_mode_of_training_and_labels_in_context_run_on_the_cluster(twice: Twice) -> None:
    stages = _plan(twice).stages.values()
    store = ArtifactStore(str(twice.folder / "w2s_store"))
    kinds = {stage.kind for stage in stages}
    assert {"tokens", "features", "probe", "confident_selection", "prompted"} <= kinds
    adapted = [s for s in stages if isinstance(s, Finetune) and s.train.mode == "lora"]
    assert any(stage.start is not None for stage in adapted)
    for stage in adapted:
        training = json.loads((store.local(stage) / TRAINING_FILE).read_text())
        assert training["num_trainable"] < 0.5 * training["num_parameters"]
        assert training["training_flops"] > 0
    results = SweepResults.load(twice.folder / "w2s_store" / ".results" / "small")
    assert set(results.difficulty["difficulty"]) <= {0, 1, 2}
    assert len(results.difficulty) == 4 * 25
    assert set(results.checkpoints["key"]) <= {stage.key for stage in stages}
    assert {"iteration 1"} <= {
        name for trial in results.trials for k in trial.keys for name in k.arms
    }


def test_status_and_explain_read_the_store(twice: Twice) -> None:
    status = w2s(twice.folder, "status", str(FILE))
    assert "complete: `w2s run` would run nothing" in status.stdout
    first, second = (stage for stage in _plan(twice).stages.values() if stage.kind == "pretrain")
    explained = w2s(twice.folder, "explain", first.key, second.key)
    assert "architecture.hidden_size: " in explained.stdout
    assert w2s(twice.folder, "explain", "0" * 16).returncode == 2
