"""Probes on a model's features that check weak labels, and what is done where they disagree.

A row's label never takes part in the prediction for that row: neighbours leave the row itself out,
fitted probes are cross-fitted. N rows, D features, C classes, K neighbours.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.stages.base import Stage, StageContext
from w2s.stages.features import Features, read_features
from w2s.stages.labels import joined, read_labels
from w2s.stages.selection import top_share_per_class

Floats = NDArray[np.floating]
NEIGHBOR_ROWS = 512
"""Rows whose distances to all others are in memory at once."""


class ProbeRelabel(Stage):
    """Weak labels filtered or replaced by what a probe makes of the other rows' weak labels."""

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    features: Features
    """Features of the rows."""
    probe: Literal["knn", "logistic", "topological"]
    """Mean label of the nearest neighbours; logistic regression; or logistic regression on the rows
    in the largest connected part of their class's neighbour graph (Wu et al. 2020, TopoFilter)."""
    action: Literal["filter", "relabel"]
    """Drop the labels that the probe disagrees with most, or replace all by the probe's."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the rows dropped, for `action = "filter"`."""
    num_neighbors: int = Field(default=50, ge=1)
    """Neighbours of a row, for `probe = "knn"`."""
    num_graph_neighbors: int = Field(default=4, ge=1)
    """Neighbours that a row has an edge to, for `probe = "topological"`."""
    inverse_regularization: float = Field(default=0.01, gt=0)
    """C of the logistic regression on standardised features."""
    num_folds: int = Field(default=5, ge=2)
    """Parts of the cross-fitting of logistic regressions."""
    seed: int = Field(ge=0)
    """Which row is in which fold."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"{self.action}-{self.probe}-{self.labels.name}"

    def run(self, context: StageContext) -> None:
        """Write the labels with weights of 0 where dropped, or with the probe's probabilities."""
        labels = read_labels(context.path(self.labels))
        weights_N, weak_NC = labels.train_weights_N, labels.probabilities_NC
        features_ND = row_features(context.path(self.features), labels.row_ids)
        used = np.flatnonzero(weights_N > 0)
        probe_NC = weak_NC.copy()
        probe_NC[used] = self._predict(features_ND[used], weak_NC[used])
        if self.action == "relabel":
            labels.write(context.output_dir, probabilities_NC=probe_NC, weights_N=weights_N)
            return
        disagreement_N = np.abs(probe_NC - weak_NC).sum(1)
        dropped = used[np.argsort(-disagreement_N[used], kind="stable")]
        weights_N[dropped[: round(self.share * len(used))]] = 0.0
        labels.write(context.output_dir, weights_N=weights_N)

    def _predict(self, features_ND: Floats, weak_NC: Floats) -> Floats:
        if self.probe == "knn":
            neighbors_NK, _ = nearest(features_ND, self.num_neighbors)
            return weak_NC[neighbors_NK].mean(1)
        classes_N = weak_NC.argmax(1)
        trusted_N = None
        if self.probe == "topological":
            neighbors_NK, _ = nearest(features_ND, self.num_graph_neighbors)
            trusted_N = largest_components(neighbors_NK, classes_N)
        return cross_fitted(
            features_ND,
            classes_N,
            weak_NC.shape[1],
            num_folds=self.num_folds,
            inverse_regularization=self.inverse_regularization,
            seed=self.seed,
            trusted_N=trusted_N,
        )


class OverlapDensity(Stage):
    """Keeps the rows on which weak and strong see the same thing (AAR 2026, "overlap density").

    The score of a row is the sum of four standardised terms: the probability that a cross-fitted
    probe on the strong model's features gives the weak label; the share of neighbours with the same
    weak label; the density, minus the logarithm of the mean distance to the neighbours; and how
    near the entropy of the weak label is to half its maximum: neither trivial nor a guess.
    """

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions."""
    features: Features
    """Features of the rows."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows of each class that is kept."""
    num_neighbors: int = Field(default=50, ge=1)
    """Neighbours of a row."""
    inverse_regularization: float = Field(default=0.01, gt=0)
    """C of the logistic regression on standardised features."""
    num_folds: int = Field(default=5, ge=2)
    """Parts of the cross-fitting."""
    seed: int = Field(ge=0)
    """Which row is in which fold."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"overlap-{self.labels.name}"

    def run(self, context: StageContext) -> None:
        """Write the labels with a weight of 0 where they are not kept."""
        labels = read_labels(context.path(self.labels))
        weights_N, weak_NC = labels.train_weights_N, labels.probabilities_NC
        features_ND = row_features(context.path(self.features), labels.row_ids)
        used = np.flatnonzero(weights_N > 0)
        classes_N = weak_NC[used].argmax(1)
        neighbors_NK, distances_NK = nearest(features_ND[used], self.num_neighbors)
        probe_NC = cross_fitted(
            features_ND[used],
            classes_N,
            weak_NC.shape[1],
            num_folds=self.num_folds,
            inverse_regularization=self.inverse_regularization,
            seed=self.seed,
        )
        scores_N = overlap_scores(probe_NC, weak_NC[used], neighbors_NK, distances_NK)
        weights_N[used] *= top_share_per_class(scores_N, classes_N, self.share)
        labels.write(context.output_dir, weights_N=weights_N)


def row_features(folder: Path, row_ids: list[str]) -> NDArray[np.float32]:
    """Standardised features [N, D] of rows of `strong_train`, joined by id.

    See `flat` for a choice among texts.
    """
    table = read_features(folder)
    index = table.index.assign(position=np.arange(len(table.index)))
    rows = joined(index.loc[index["split"] == "strong_train"], row_ids, "features")
    values = flat(np.asarray(table.features)[rows["position"].to_numpy()])
    return standardised(values).astype(np.float32)


def flat(values: Floats) -> Floats:
    """One vector [N, D] a row, of features [N, D] or, for a choice among K texts, [N, K, D].

    Of a choice these are the differences to the first text, (K - 1) D of them: what differences of
    scores are a function of.
    """
    if values.ndim == 2:
        return values
    return (values[:, 1:] - values[:, :1]).reshape(len(values), -1)


def standardised(values: Floats) -> Floats:
    """Values less their mean over the first axis, divided by their deviation where there is one."""
    deviation = values.std(0)
    return (values - values.mean(0)) / np.where(deviation > 0, deviation, 1.0)


def nearest(features_ND: Floats, num_neighbors: int) -> tuple[NDArray[np.int64], Floats]:
    """The nearest other rows by Euclidean distance, and how far they are: [N, K] each.

    There are at most N - 1 of them.

    Raises:
        ValueError: fewer than two rows.
    """
    num_rows = len(features_ND)
    if num_rows < 2:
        raise ValueError("neighbours need at least two rows")
    number = min(num_neighbors, num_rows - 1)
    features_ND = np.asarray(features_ND, dtype=np.float32)
    norms_N = (features_ND**2).sum(1)
    neighbors_NK = np.zeros((num_rows, number), dtype=np.int64)
    distances_NK = np.zeros((num_rows, number), dtype=np.float32)
    for start in range(0, num_rows, NEIGHBOR_ROWS):
        part_BD = features_ND[start : start + NEIGHBOR_ROWS]
        rows = np.arange(start, start + len(part_BD))
        # Squared distances but for the row's own norm, which changes no order.
        squares_BN = norms_N - 2 * (part_BD @ features_ND.T)
        squares_BN[rows - start, rows] = np.inf
        found_BK = np.sort(np.argpartition(squares_BN, number - 1, axis=1)[:, :number], axis=1)
        for row, found in zip(rows, found_BK, strict=True):
            distances = np.linalg.norm(features_ND[found] - features_ND[row], axis=1)
            order = np.argsort(distances, kind="stable")
            neighbors_NK[row], distances_NK[row] = found[order], distances[order]
    return neighbors_NK, distances_NK


def largest_components(
    neighbors_NK: NDArray[np.integer], classes_N: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Rows in the largest connected part of their class (Wu et al. 2020).

    Args:
        neighbors_NK: rows that each row has an edge to; edges between classes do not count.
        classes_N: weak label of each row.

    Returns:
        [N]; of equally large parts the one with the first row.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    num_rows, num_neighbors = neighbors_NK.shape
    ends = neighbors_NK.ravel()
    starts = np.repeat(np.arange(num_rows), num_neighbors)
    same = classes_N[starts] == classes_N[ends]
    edges = coo_matrix(
        (np.ones(int(same.sum())), (starts[same], ends[same])), shape=(num_rows, num_rows)
    )
    _, part_N = connected_components(edges, directed=False)
    sizes = np.bincount(part_N)
    kept_N = np.zeros(num_rows, dtype=bool)
    for number in np.unique(classes_N):
        rows = np.flatnonzero(classes_N == number)
        kept_N |= part_N == part_N[rows[np.argmax(sizes[part_N[rows]])]]
    return kept_N


def cross_fitted(
    features_ND: Floats,
    classes_N: NDArray[np.integer],
    num_classes: int,
    *,
    num_folds: int,
    inverse_regularization: float,
    seed: int,
    weights_N: Floats | None = None,
    trusted_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Class probabilities [N, C] by logistic regressions, each fitted on the other folds.

    Args:
        features_ND: standardised.
        classes_N: what is fitted.
        num_classes: C.
        num_folds: at most N.
        inverse_regularization: C of the regression, as scikit-learn has it.
        seed: which row is in which fold.
        weights_N: sample weights of the fit; None: all the same.
        trusted_N: rows that are fitted at all; None: all. The others are predicted as well.
    """
    from sklearn.linear_model import LogisticRegression

    num_rows = len(features_ND)
    folds_N = np.random.default_rng(seed).permutation(num_rows) % num_folds
    fitted_N = np.ones(num_rows, dtype=bool) if trusted_N is None else trusted_N
    if weights_N is not None:
        fitted_N = fitted_N & (weights_N > 0)
    probabilities_NC = np.zeros((num_rows, num_classes))
    for fold in range(num_folds):
        out, rows = folds_N == fold, np.flatnonzero((folds_N != fold) & fitted_N)
        if not out.any():
            continue
        found = np.unique(classes_N[rows])
        if len(found) < 2:
            # Nothing to tell apart: the class there is, or every class alike.
            probabilities_NC[out] = 1 / num_classes
            if len(found):
                probabilities_NC[out] = np.eye(num_classes)[found[0]]
            continue
        model: Any = LogisticRegression(C=inverse_regularization, max_iter=200)
        model.fit(
            features_ND[rows],
            classes_N[rows],
            sample_weight=None if weights_N is None else weights_N[rows],
        )
        probabilities_NC[np.ix_(out, model.classes_)] = model.predict_proba(features_ND[out])
    return probabilities_NC


def overlap_scores(
    probe_NC: Floats,
    weak_NC: Floats,
    neighbors_NK: NDArray[np.integer],
    distances_NK: Floats,
) -> NDArray[np.float64]:
    """Sum of the four standardised terms of `OverlapDensity`: [N], higher is better."""
    classes_N = weak_NC.argmax(1)
    entropy_N = -(weak_NC * np.log(np.maximum(weak_NC, 1e-12))).sum(1)
    terms = (
        probe_NC[np.arange(len(classes_N)), classes_N],
        (classes_N[neighbors_NK] == classes_N[:, None]).mean(1),
        -np.log(np.maximum(distances_NK.mean(1), 1e-12)),
        -np.abs(entropy_N - np.log(weak_NC.shape[1]) / 2),
    )
    return np.sum([standardised(term) for term in terms], axis=0)
