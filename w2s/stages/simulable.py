"""A weak supervisor that the strong model can simulate: it sees the first of its features.

Burns et al. 2023, appendix E. N rows, D features.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from w2s.errors import UserError
from w2s.stages.base import Stage, StageContext
from w2s.stages.data import GroundTruth, read_truth
from w2s.stages.errors import corrupted, highest
from w2s.stages.features import Features, read_features
from w2s.stages.labels import SMALLEST_PROBABILITY, joined
from w2s.stages.predictions import write_predictions
from w2s.stages.relabel import flat


class SimulableSupervisor(Stage):
    """Logistic regression on the first features of a model; it leaves hard predictions."""

    features: Features
    """Features of the strong base model."""
    labels: GroundTruth
    """Ground truth of `weak_train`."""
    num_features: int = Field(ge=1)
    """How many of the features it sees, from the first on."""
    label_noise: float = Field(default=0.0, ge=0, lt=1)
    """Share of its predictions of each split that are then made another class."""
    seed: int = Field(ge=0)
    """Which predictions are changed."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"simulable-{self.num_features}-s{self.seed}"

    def run(self, context: StageContext) -> None:
        """Write predictions of `strong_train`, `val` and `test`.

        Raises:
            UserError: the model has fewer features.
        """
        table = read_features(context.path(self.features))
        values_ND = flat(np.asarray(table.features))
        if self.num_features > values_ND.shape[1]:
            raise UserError(
                f"a supervisor of {self.num_features} features, but the strong model has "
                f"{values_ND.shape[1]}; lower `num_features`"
            )
        values_ND = values_ND[:, : self.num_features]
        index = table.index.assign(position=np.arange(len(table.index)))
        truth = read_truth(context.path(self.labels))
        train = joined(
            index.loc[index["split"] == "weak_train"], truth["row_id"].tolist(), "features"
        )
        predicted_N = fitted_classes(
            values_ND[train["position"].to_numpy()], truth["label"].to_numpy(), values_ND
        )
        generator = np.random.default_rng(self.seed)
        num_classes = self.labels.task.num_classes
        parts = []
        for split in ("strong_train", "val", "test"):
            rows = np.flatnonzero(index["split"] == split)
            wrong_N = highest(np.zeros(len(rows)), self.label_noise, generator)
            predicted_N[rows] = corrupted(predicted_N[rows], wrong_N, num_classes, generator)
            parts.append(rows)
        rows = np.concatenate(parts)
        probabilities_NC = np.maximum(np.eye(num_classes)[predicted_N[rows]], SMALLEST_PROBABILITY)
        write_predictions(
            context.output_dir,
            index["split"].iloc[rows].tolist(),
            index["row_id"].iloc[rows].tolist(),
            np.log(probabilities_NC),
        )


def fitted_classes(
    train_ND: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    values_MD: NDArray[np.floating],
) -> NDArray[np.int64]:
    """[M] classes by a logistic regression with the defaults of scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(train_ND, labels_N)
    return np.asarray(model.predict(values_MD), dtype=np.int64)
