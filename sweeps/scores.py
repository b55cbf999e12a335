"""Numbers of one trial, from its evaluations in the store: what its MLflow run shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sweeps.book import Entry
from sweeps.store import ArtifactStore
from w2s import statistics
from w2s.stages.evaluate import Evaluate, read_evaluation, read_rows

BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True)
class TrialScores:
    """What is logged for a trial."""

    metrics: dict[str, float]
    """Means over seeds, PGR and its interval."""
    by_seed: dict[str, list[float]]
    """The main scores by seed."""
    notes: dict[str, str]
    """Words where there is no number."""
    started: float
    """Unix time in seconds at which the first of its stages began."""
    finished: float
    """Unix time in seconds at which the last one ended."""


def trial_scores(store: ArtifactStore, entry: Entry) -> TrialScores:
    """Scores of the finished seeds of a trial."""
    finished = list(entry.roles.values())[: entry.num_seeds]
    if not finished:
        return TrialScores({}, {}, {}, entry.started, entry.finished)
    evaluations = {
        role: [read_evaluation(store.local(getattr(roles, role))) for roles in finished]
        for role in ("floor", "supervisor", "student", "ceiling")
    }
    by_seed = {
        "test_accuracy": [each["test"]["accuracy"] for each in evaluations["student"]],
        "val_accuracy": [each["val"]["accuracy"] for each in evaluations["student"]],
        "floor": [each["test"]["accuracy"] for each in evaluations["floor"]],
        "supervisor": [each["test"]["accuracy"] for each in evaluations["supervisor"]],
        "ceiling": [each["test"]["accuracy"] for each in evaluations["ceiling"]],
        "weak_label_accuracy": [
            each["strong_train"]["accuracy"] for each in evaluations["supervisor"]
        ],
    }
    for name, source in (
        ("test_auroc", "auroc"),
        ("test_log_loss", "log_loss"),
        ("agreement", "agreement"),
        ("agreement_where_right", "agreement_where_right"),
        ("agreement_where_wrong", "agreement_where_wrong"),
    ):
        values: list[Any] = [each["test"].get(source) for each in evaluations["student"]]
        if all(value is not None for value in values):
            by_seed[name] = values
    metrics = {name: float(np.mean(values)) for name, values in by_seed.items()}
    rows = {
        role: [_test(store, getattr(roles, role)) for roles in finished]
        for role in ("floor", "student", "ceiling")
    }
    compared = statistics.compare(
        *(np.stack([frame["correct"].to_numpy(float) for frame in rows[role]]) for role in rows),
        seed=BOOTSTRAP_SEED,
        groups=rows["floor"][0]["group"].to_numpy(),
    )
    notes: dict[str, str] = {}
    if compared.pgr is None:
        notes["pgr"] = "gap too small"
    else:
        metrics |= {
            "pgr": compared.pgr.point,
            "pgr_low": compared.pgr.low,
            "pgr_high": compared.pgr.high,
        }
    records = [
        store.record(role) for roles in finished for role in (roles.student, roles.supervisor)
    ]
    return TrialScores(
        metrics=metrics,
        by_seed=by_seed,
        notes=notes,
        started=min(record.started for record in records),
        finished=max(record.finished for record in records),
    )


def _test(store: ArtifactStore, evaluate: Evaluate) -> pd.DataFrame:
    frame = read_rows(store.local(evaluate))
    return frame.loc[frame["split"] == "test"].sort_values("row_id")
