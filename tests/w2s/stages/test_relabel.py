"""Probes that check weak labels: no label has a say in its own check."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.w2s.stages.given import Artifacts
from w2s.errors import UserError
from w2s.stages.posterior import EMPosterior, bayes, em_posterior
from w2s.stages.predictions import read_predictions
from w2s.stages.relabel import (
    OverlapDensity,
    ProbeRelabel,
    cross_fitted,
    flat,
    largest_components,
    nearest,
    overlap_scores,
    row_features,
)
from w2s.stages.simulable import SimulableSupervisor


@pytest.fixture
def given(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def test_neighbours_leave_the_row_itself_out_even_among_equal_rows() -> None:
    neighbors, distances = nearest(np.array([[0.0], [1.0], [3.0], [7.0]]), 2)
    assert neighbors.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    np.testing.assert_allclose(distances, [[1, 3], [1, 2], [2, 3], [4, 6]])
    equal, _ = nearest(np.zeros((4, 3)), 3)
    assert all(row not in neighbors for row, neighbors in enumerate(equal.tolist()))
    assert nearest(np.zeros((3, 1)), 50)[0].shape == (3, 2)


def test_the_largest_part_of_each_class_is_kept() -> None:
    # Class 0: the chain 0-1-2, and 3 whose only neighbour is of class 1. Class 1: 4-5 and 6-7-8.
    neighbors = np.array([[1], [2], [1], [4], [5], [4], [7], [8], [6]])
    classes = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    kept = largest_components(neighbors, classes)
    assert kept.tolist() == [True, True, True, False, False, False, True, True, True]


def clusters(num_rows: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features around (-2, 0) and (2, 0), and which of the two: [N, 2], [N]."""
    generator = np.random.default_rng(seed)
    classes = np.arange(num_rows) % 2
    features = generator.normal(0, 0.5, (num_rows, 2))
    features[:, 0] += np.where(classes == 1, 2, -2)
    return features, classes


def test_a_row_has_no_say_in_its_own_cross_fitted_prediction() -> None:
    features, classes = clusters()
    settings = {"num_folds": 5, "inverse_regularization": 1.0, "seed": 0}
    before = cross_fitted(features, classes, 2, **settings)
    for row in (0, 7, 33):
        changed = classes.copy()
        changed[row] = 1 - changed[row]
        after = cross_fitted(features, changed, 2, **settings)
        np.testing.assert_array_equal(after[row], before[row])
    assert (before.argmax(1) == classes).all()
    np.testing.assert_allclose(before.sum(1), 1.0)


def test_a_fit_on_one_class_says_that_class_and_on_no_row_nothing() -> None:
    features, _ = clusters(10)
    settings = {"num_folds": 2, "inverse_regularization": 1.0, "seed": 0}
    one = cross_fitted(features, np.ones(10, dtype=int), 3, **settings)
    np.testing.assert_array_equal(one, np.tile([0.0, 1.0, 0.0], (10, 1)))
    none = cross_fitted(
        features, np.ones(10, dtype=int), 2, trusted_N=np.zeros(10, dtype=bool), **settings
    )
    np.testing.assert_array_equal(none, np.full((10, 2), 0.5))


def test_features_of_a_choice_are_differences_to_the_first_text() -> None:
    values = np.array([[[1.0, 2.0], [4.0, 4.0], [0.0, 2.0]]])
    assert flat(values).tolist() == [[3.0, 2.0, -1.0, 0.0]]
    assert flat(np.ones((2, 3))).shape == (2, 3)


def test_features_are_joined_by_id_and_standardised_over_the_rows_learnt(given: Artifacts) -> None:
    given.features(
        [
            ("weak_train", "w", [100.0, 5.0]),
            ("strong_train", "b", [3.0, 5.0]),
            ("strong_train", "a", [1.0, 5.0]),
        ]
    )
    folder = next(iter(given.inputs.values()))
    np.testing.assert_allclose(row_features(folder, ["a", "b"]), [[-1, 0], [1, 0]])


def noisy(given: Artifacts, wrong: set[int]) -> tuple[ProbeRelabel, np.ndarray]:
    """Two clusters whose labels are right but for some rows; and the labels."""
    features, classes = clusters(40)
    weak = np.array([1 - c if row in wrong else c for row, c in enumerate(classes)])
    ids = [f"r{row}" for row in range(40)]
    split = "strong_train"
    labels = given.predictions(
        "weak",
        [(split, i, (0.9, 0.1) if w == 0 else (0.1, 0.9)) for i, w in zip(ids, weak, strict=True)],
    )
    rows = [(split, i, vector) for i, vector in zip(ids, features, strict=True)]
    stage = ProbeRelabel(
        labels=labels,
        features=given.features(rows[::-1]),
        probe="knn",
        action="filter",
        num_neighbors=5,
        inverse_regularization=1.0,
        seed=0,
    )
    return stage, classes


@pytest.mark.parametrize("probe", ["knn", "logistic", "topological"])
def test_a_tenth_is_dropped_and_it_is_the_wrong_one(
    given: Artifacts, probe: Literal["knn", "logistic", "topological"]
) -> None:
    wrong = {3, 10, 21, 36}
    stage, _ = noisy(given, wrong)
    labels = given.labels(stage.model_copy(update={"probe": probe, "share": 0.1}))
    dropped = {
        int(i[1:]) for i, w in zip(labels.row_ids, labels.train_weights_N, strict=True) if w == 0
    }
    assert dropped == wrong


@pytest.mark.parametrize("probe", ["knn", "logistic", "topological"])
def test_relabelling_puts_the_wrong_ones_right(
    given: Artifacts, probe: Literal["knn", "logistic", "topological"]
) -> None:
    stage, classes = noisy(given, {3, 10, 21, 36})
    labels = given.labels(stage.model_copy(update={"probe": probe, "action": "relabel"}))
    assert (labels.probabilities_NC.argmax(1) == classes).all()
    assert (labels.train_weights_N == 1).all()


def test_the_mean_label_of_neighbours_is_the_new_label(given: Artifacts) -> None:
    split = "strong_train"
    labels = given.predictions(
        "weak", [(split, "a", (0.9, 0.1)), (split, "b", (0.5, 0.5)), (split, "c", (0.2, 0.8))]
    )
    features = given.features([(split, "a", [0.0]), (split, "b", [1.0]), (split, "c", [3.0])])
    relabelled = given.labels(
        ProbeRelabel(
            labels=labels, features=features, probe="knn", action="relabel", num_neighbors=2, seed=0
        )
    )
    np.testing.assert_allclose(
        relabelled.probabilities_NC[:, 1], [(0.5 + 0.8) / 2, (0.1 + 0.8) / 2, (0.1 + 0.5) / 2]
    )


def test_rows_that_are_out_stay_out_and_are_not_asked(given: Artifacts) -> None:
    split = "strong_train"
    labels = given.predictions(
        "weak",
        [(split, "a", (0.9, 0.1)), (split, "b", (0.8, 0.2)), (split, "c", (0.1, 0.9))],
        weights=[1.0, 1.0, 0.0],
    )
    features = given.features([(split, "a", [0.0]), (split, "b", [1.0]), (split, "c", [0.1])])
    relabelled = given.labels(
        ProbeRelabel(labels=labels, features=features, probe="knn", action="relabel", seed=0)
    )
    assert relabelled.train_weights_N.tolist() == [1, 1, 0]
    np.testing.assert_allclose(relabelled.probabilities_NC[:, 0], [0.8, 0.9, 0.1], atol=1e-6)


def test_overlap_adds_four_standardised_terms() -> None:
    # Where three terms are the same for all rows, the fourth decides, at one deviation each.
    sure, half = 0.999, 0.89
    same = {
        "probe_NC": np.array([[0.7, 0.3], [0.7, 0.3]]),
        "weak_NC": np.array([[half, 1 - half], [half, 1 - half]]),
        "neighbors_NK": np.array([[1], [0]]),
        "distances_NK": np.array([[2.0], [2.0]]),
    }
    np.testing.assert_allclose(overlap_scores(**same), [0, 0])
    for changed in (
        {"probe_NC": np.array([[0.9, 0.1], [0.6, 0.4]])},
        {"distances_NK": np.array([[1.0], [3.0]])},
        {"weak_NC": np.array([[half, 1 - half], [sure, 1 - sure]])},
        {"weak_NC": np.array([[half, 1 - half], [0.5, 0.5]])},
    ):
        np.testing.assert_allclose(overlap_scores(**(same | changed))[:2], [1, -1], atol=1e-6)


def test_the_entropy_term_peaks_at_half_the_largest_entropy() -> None:
    # H(p) = ln(2) / 2 at p = 0.88997.
    probabilities = np.array([0.99, 0.95, 0.88997, 0.8, 0.6])
    weak = np.stack([probabilities, 1 - probabilities], 1)
    scores = overlap_scores(np.full((5, 2), 0.5), weak, np.zeros((5, 1), int), np.ones((5, 1)))
    assert scores.argmax() == 2
    assert (np.diff(scores)[:2] > 0).all()
    assert (np.diff(scores)[2:] < 0).all()


def test_overlap_keeps_a_share_of_each_class_and_not_the_wrong_ones(given: Artifacts) -> None:
    wrong = {3, 10, 21, 36}
    stage, _ = noisy(given, wrong)
    labels = given.labels(
        OverlapDensity(labels=stage.labels, features=stage.features, share=0.5, seed=0)
    )
    kept = labels.train_weights_N > 0
    classes = labels.probabilities_NC.argmax(1)
    assert [int(kept[classes == c].sum()) for c in (0, 1)] == [10, 10]
    assert not kept[sorted(wrong)].any()


def test_bayes_rule() -> None:
    posterior = bayes(np.array([[0.6, 0.4]]), np.array([[0.2, 0.9]]))
    np.testing.assert_allclose(posterior, [[0.12 / 0.48, 0.36 / 0.48]])


def test_a_channel_without_features_has_the_expected_rates() -> None:
    # Four kinds of rows, 200 each: prior of class 1 and weak label. Start: prior times weak.
    prior = np.repeat([0.8, 0.8, 0.2, 0.2], 200)
    weak = np.repeat([0.9, 0.1, 0.9, 0.1], 200)
    start = prior * weak / (prior * weak + (1 - prior) * (1 - weak))
    said = weak > 0.5
    true_positive = start[said].sum() / start.sum()
    false_positive = (1 - start)[said].sum() / (1 - start).sum()
    expected = []
    for p, w in ((0.8, True), (0.8, False), (0.2, True), (0.2, False)):
        like_1 = true_positive if w else 1 - true_positive
        like_0 = false_positive if w else 1 - false_positive
        expected.append(p * like_1 / (p * like_1 + (1 - p) * like_0))
    posterior = em_posterior(
        np.stack([1 - weak, weak], 1),
        np.stack([1 - prior, prior], 1),
        np.zeros((800, 1)),
        rounds=1,
        inverse_regularization=1.0,
        num_folds=10,
        seed=0,
    )
    np.testing.assert_allclose(posterior[::200, 1], expected, atol=0.03)


def test_the_posterior_knows_where_the_supervisor_errs() -> None:
    # The supervisor is right where x < 0 and a coin where x > 0; the prior is right in 80 %.
    generator = np.random.default_rng(0)
    x = generator.normal(size=2000)
    truth = generator.integers(0, 2, 2000)
    weak = np.where((x > 0) & (generator.random(2000) < 0.5), 1 - truth, truth)
    guess = np.where(generator.random(2000) < 0.2, 1 - truth, truth)
    posterior = em_posterior(
        np.eye(2)[weak] * 0.8 + 0.1,
        np.eye(2)[guess] * 0.6 + 0.2,
        x[:, None],
        rounds=4,
        inverse_regularization=1.0,
        num_folds=5,
        seed=0,
    )
    right = (posterior.argmax(1) == truth).mean()
    assert (weak == truth).mean() == pytest.approx(0.75, abs=0.03)
    assert right > (guess == truth).mean() + 0.03
    assert right > (weak == truth).mean() + 0.08


def test_a_posterior_is_written_for_the_rows_learnt_only(given: Artifacts) -> None:
    split = "strong_train"
    ids = [f"r{number}" for number in range(12)]
    labels = given.predictions(
        "weak", [*((split, i, (0.4, 0.6)) for i in ids), ("val", "v", (0.3, 0.7))]
    )
    prior = given.predictions("prior", [(split, i, (0.9, 0.1)) for i in ids[::-1]])
    features = given.features([(split, i, [float(n)]) for n, i in enumerate(ids)])
    found = given.labels(EMPosterior(labels=labels, prior=prior, features=features, seed=0))
    # One class was ever said: the channel says nothing, the prior stays.
    np.testing.assert_allclose(found.probabilities_NC, np.tile([0.9, 0.1], (12, 1)), atol=1e-6)
    np.testing.assert_allclose(np.exp(found.logprobs_NC[-1]), [0.3, 0.7], atol=1e-6)


def simulable(given: Artifacts, num_features: int, noise: float = 0.0) -> np.ndarray:
    """Right or wrong of its 40 predictions of `test`."""
    features, classes = clusters(100)
    # The first feature says nothing, the second all.
    vectors = features[:, ::-1]
    splits = ["weak_train"] * 30 + ["strong_train"] * 20 + ["val"] * 10 + ["test"] * 40
    ids = [f"r{row}" for row in range(100)]
    stage = SimulableSupervisor(
        features=given.features(list(zip(splits, ids, vectors, strict=True))),
        labels=given.truth("weak_train", dict(zip(ids[:30], classes[:30].tolist(), strict=True))),
        num_features=num_features,
        label_noise=noise,
        seed=0,
    )
    frame = read_predictions(given.run(stage))
    assert frame["split"].value_counts().to_dict() == {"strong_train": 20, "val": 10, "test": 40}
    test = frame.loc[frame["split"] == "test"]
    truth = np.array([classes[int(i[1:])] for i in test["row_id"]])
    return (test["logprob_1"] > test["logprob_0"]).to_numpy() == truth


def test_a_simulable_supervisor_sees_only_the_first_features(given: Artifacts) -> None:
    assert simulable(given, 2).all()
    assert simulable(Artifacts(given.folder / "one"), 1).mean() < 0.8
    assert simulable(Artifacts(given.folder / "noise"), 2, noise=0.25).mean() == 0.75


def test_a_simulable_supervisor_of_more_features_than_there_are_is_refused(
    given: Artifacts,
) -> None:
    with pytest.raises(UserError, match="supervisor of 3 features, but the strong model has 2"):
        simulable(given, 3)
