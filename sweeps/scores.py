"""Numbers of one trial, from its evaluations in the store: what its MLflow run shows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from sweeps.book import Entry
from sweeps.store import ArtifactStore
from w2s import metrics, statistics
from w2s.diversity import diversity
from w2s.experiment import Roles
from w2s.resamples import CEILING, NUM_RESAMPLES, TEACHING, Resamples, seed_weights
from w2s.stages.checkpoints import CHOICES, read_compared, read_training
from w2s.stages.ensemble import read_ensemble
from w2s.stages.evaluate import Evaluate, read_evaluation, read_rows
from w2s.stages.oversight import read_oversight
from w2s.stages.recursion import Generation, read_generations

BOOTSTRAP_SEED = 0
AUROC_RESAMPLES = 1000
"""Resamples on which AUROC is computed; each costs a pass over the rows."""
MAX_RESAMPLES = 4
"""Draws of rows that are kept: one a task, some 5 MB each."""
MAX_NUMBERS = 200
"""Resampled numbers that are kept, 80 kB a seed each: floors and ceilings of other trials."""
MAX_ROWS = 100
"""Evaluations whose rows are kept."""
STUDENT_METRICS = {
    "test_auroc": "auroc",
    "test_log_loss": "log_loss",
    "test_balanced_accuracy": "balanced_accuracy",
    "test_brier": "brier",
    "test_ece": "expected_calibration_error",
    "agreement": "agreement",
    "agreement_where_right": "agreement_where_right",
    "agreement_where_wrong": "agreement_where_wrong",
    "misfit_squared": "misfit_squared",
    "misfit_divergence": "misfit_divergence",
}
"""Scores of the student on `test`, and their names in its evaluation."""
OVERSIGHT_METRICS = {
    "judge_accuracy": "judge_accuracy",
    "judge_gain": "judge_gain",
    "judge_ece": "ece_with",
    "win_rate_a": "win_rate_a",
    "win_rate_honest": "win_rate_honest",
    "win_rate_dishonest": "win_rate_dishonest",
    "win_rate_longer": "win_rate_longer",
    "invalid_rate": "invalid_rate",
}
"""What transcripts did to the supervisors on `test`, and its names in their oversight."""
TRAINING_NUMBERS = (
    "num_parameters",
    "num_non_embedding",
    "num_trainable",
    "num_tokens",
    "training_flops",
)
"""Numbers of the student's training."""


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


class TrialScorer:
    """Scores trials one after another; what several of them share is read and resampled once."""

    def __init__(self, store: ArtifactStore) -> None:
        """Args: store: that has the evaluations."""
        self._store = store
        self._resamples: dict[tuple[object, ...], Resamples] = {}
        self._numbers: dict[tuple[str, ...], statistics.Resampled] = {}
        self._rows: dict[str, pd.DataFrame] = {}

    def of(self, entry: Entry) -> TrialScores:
        """Scores of the finished seeds of a trial."""
        return _trial_scores(self._store, entry, self._comparisons)

    def _comparisons(self, finished: list[Roles]) -> dict[str, statistics.Comparison]:
        """Floor, student and ceiling by accuracy (`pgr`) and, of two classes, by AUROC."""
        first = self._test(finished[0].floor)
        labels_N = first["label"].to_numpy()
        found = {"pgr": self._compare(finished, "correct", NUM_RESAMPLES)}
        two_classes = "prob_1" in first.columns and "prob_2" not in first.columns
        if two_classes and len(np.unique(labels_N)) == 2:
            found["pgr_auroc"] = self._compare(finished, "prob_1", AUROC_RESAMPLES)
        return found

    def _compare(
        self, finished: list[Roles], column: str, num_resamples: int
    ) -> statistics.Comparison:
        floor = self._number([roles.floor for roles in finished], column, num_resamples)
        student = self._number([roles.student for roles in finished], column, num_resamples)
        ceiling = self._number(
            [roles.ceiling for roles in finished],
            column,
            num_resamples,
            stream=CEILING,
        )
        num_rows = len(self._test(finished[0].floor))
        return statistics.comparison(
            floor, student, ceiling, num_rows=num_rows, num_seeds=len(finished)
        )

    def _number(
        self,
        stages: list[Evaluate],
        column: str,
        num_resamples: int,
        stream: int = TEACHING,
    ) -> statistics.Resampled:
        name = (column, str(stream), *(stage.key for stage in stages))
        if name not in self._numbers:
            frames = [self._test(stage) for stage in stages]
            resamples = self._drawn(frames[0]["group"].to_numpy())
            scores_SN = np.stack([frame[column].to_numpy(float) for frame in frames])
            weights_RS = seed_weights(
                len(scores_SN), stream=stream, seed=BOOTSTRAP_SEED, num_resamples=num_resamples
            )
            if column == "prob_1":
                labels_N = frames[0]["label"].to_numpy()
                points_S = np.array([metrics.auroc(row_N, labels_N) for row_N in scores_SN])
                values_SR = resamples.auroc(scores_SN, labels_N == 1, num_resamples)
            else:
                points_S, values_SR = scores_SN.mean(1), resamples.means(scores_SN)
            number = statistics.over_seeds(points_S, values_SR, weights_RS)
            _remember(self._numbers, name, number, MAX_NUMBERS)
        return self._numbers[name]

    def _drawn(self, groups_N: "np.ndarray[Any, Any]") -> Resamples:
        name = tuple(groups_N.tolist())
        if name not in self._resamples:
            drawn = Resamples(len(groups_N), seed=BOOTSTRAP_SEED, groups=groups_N)
            _remember(self._resamples, name, drawn, MAX_RESAMPLES)
        return self._resamples[name]

    def _test(self, stage: Evaluate) -> pd.DataFrame:
        if stage.key not in self._rows:
            _remember(self._rows, stage.key, _test(self._store, stage), MAX_ROWS)
        return self._rows[stage.key]


K = TypeVar("K")
V = TypeVar("V")


def _remember(known: dict[K, V], name: K, value: V, most: int) -> None:
    """Add to what is kept; the oldest goes where there would be more than `most`."""
    if len(known) >= most:
        del known[next(iter(known))]
    known[name] = value


def _trial_scores(
    store: ArtifactStore,
    entry: Entry,
    comparisons: Callable[[list[Roles]], dict[str, statistics.Comparison]],
) -> TrialScores:
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
    for name, source in STUDENT_METRICS.items():
        values: list[Any] = [each["test"].get(source) for each in evaluations["student"]]
        if all(value is not None for value in values):
            by_seed[name] = values
    by_seed |= _oversight(store, finished)
    by_seed |= _ensemble(store, finished)
    folders = [store.local(roles.student) for roles in finished]
    compared = [read_compared(folder) for folder in folders]
    for choice in CHOICES:
        stopped = [run.test_accuracy(choice) for run in compared if run is not None]
        found = [value for value in stopped if value is not None]
        if len(found) == len(finished):
            by_seed[f"stopped_{choice}"] = found
    training = [read_training(folder) for folder in folders]
    by_seed |= _member_weights(training)
    by_seed |= _generations([read_generations(folder) for folder in folders])
    for role in ("floor", "ceiling"):
        values = [each["test"].get("auroc") for each in evaluations[role]]
        if all(value is not None for value in values):
            by_seed[f"{role}_auroc"] = values
    means = {name: float(np.mean(values)) for name, values in by_seed.items()}
    for name in TRAINING_NUMBERS:
        if all(name in numbers for numbers in training):
            means[name] = float(np.mean([numbers[name] for numbers in training]))
    notes: dict[str, str] = {}
    for name, result in comparisons(finished).items():
        if result.pgr is None:
            notes[name] = "gap too small"
        else:
            means |= {
                name: result.pgr.point,
                f"{name}_low": result.pgr.low,
                f"{name}_high": result.pgr.high,
            }
    records = [
        store.record(role) for roles in finished for role in (roles.student, roles.supervisor)
    ]
    return TrialScores(
        metrics=means,
        by_seed=by_seed,
        notes=notes,
        started=min(record.started for record in records),
        finished=max(record.finished for record in records),
    )


def _ensemble(store: ArtifactStore, finished: list[Roles]) -> dict[str, list[float]]:
    """How unlike the members of each seed's supervisor are on `test`, its size, its own scores."""
    if any(len(roles.members) < 2 for roles in finished):
        return {}
    by_seed: dict[str, list[float]] = {}
    for roles in finished:
        members = [_test(store, member) for member in roles.members]
        ensemble = _test(store, roles.supervisor)
        found = diversity(
            np.stack([_probabilities(frame) for frame in members]),
            _probabilities(ensemble),
            ensemble["label"].to_numpy(),
        )
        notes = read_ensemble(store.local(roles.supervisor.predictions))
        numbers = {
            "members_accuracy": float(np.mean([frame["correct"].mean() for frame in members])),
            "members_disagreement": found.disagreement,
            "members_q_statistic": found.q_statistic,
            "ensemble_ambiguity": found.ambiguity,
            "ensemble_size": notes.get("size"),
            "out_of_bag_accuracy": notes.get("out_of_bag", {}).get("ensemble"),
        }
        for name, value in numbers.items():
            if value is not None and value == value:
                by_seed.setdefault(name, []).append(float(value))
    return {name: values for name, values in by_seed.items() if len(values) == len(finished)}


def _member_weights(training: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The weights that each seed's student learnt for its teachers, at the end."""
    found = [numbers["member_weights"] for numbers in training if "member_weights" in numbers]
    if len(found) < len(training) or len(set(map(len, found))) > 1:
        return {}
    return {
        f"member_{number}_weight": list(weights)
        for number, weights in enumerate(zip(*found, strict=True))
    }


def _generations(found: list[tuple[Generation, ...]]) -> dict[str, list[float]]:
    """Of each seed's recursion the chosen generation, agreement and share of labels kept."""
    if not all(found):
        return {}
    by_seed: dict[str, list[float]] = {
        "generation": [each.number for turns in found for each in turns if each.selected]
    }
    for turns in found:
        for each in turns:
            name = f"generation_{each.number}"
            by_seed.setdefault(f"{name}_agreement", []).append(each.agreement)
            if each.kept_share is not None:
                by_seed.setdefault(f"{name}_kept_share", []).append(each.kept_share)
    return by_seed


def _probabilities(frame: pd.DataFrame) -> "np.ndarray[Any, Any]":
    """[N, C] by class."""
    names = sorted(
        (name for name in frame.columns if name.startswith("prob_")), key=lambda name: int(name[5:])
    )
    return frame[names].to_numpy(np.float64)


def _oversight(store: ArtifactStore, finished: list[Roles]) -> dict[str, list[float]]:
    """What transcripts did to the supervisors of each seed, the mean over its members."""
    found = [
        [read_oversight(store.local(stage))["test"] for stage in roles.oversight]
        for roles in finished
    ]
    if not all(found):
        return {}
    return {
        name: [float(np.mean([each[source] for each in members])) for members in found]
        for name, source in OVERSIGHT_METRICS.items()
        if all(source in each for members in found for each in members)
    }


def _test(store: ArtifactStore, evaluate: Evaluate) -> pd.DataFrame:
    frame = read_rows(store.local(evaluate))
    return frame.loc[frame["split"] == "test"].sort_values("row_id")
