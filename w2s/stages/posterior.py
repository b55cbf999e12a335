"""The truth as a hidden variable between a model's prior and a supervisor's noisy labels.

Automated W2S researcher 2026 ("EM posterior"). The supervisor's label w of a row with features x is
drawn from a channel P(w | y, x): for two classes its true and false positive rates, each a logistic
function of the features. With a prior P(y | x), Bayes' rule gives P(y | w, x), to which the channel
is fitted again. N rows, D features, C classes.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny

from w2s.stages.base import Stage, StageContext
from w2s.stages.features import Features
from w2s.stages.labels import probabilities_of, read_labels
from w2s.stages.relabel import cross_fitted, row_features

Floats = NDArray[np.floating]


class EMPosterior(Stage):
    """Labels replaced by the posterior of the truth after some rounds of EM."""

    labels: SerializeAsAny[Stage]
    """Stage that leaves predictions: the channel's output is their most probable class."""
    prior: SerializeAsAny[Stage]
    """Stage that leaves predictions of `strong_train` without having seen a label: the prior."""
    features: Features
    """Features that the channel depends on."""
    rounds: int = Field(default=2, ge=1)
    """Times that the channel is fitted and the posterior taken."""
    inverse_regularization: float = Field(default=0.01, gt=0)
    """C of the channel's logistic regressions on standardised features."""
    num_folds: int = Field(default=5, ge=2)
    """Parts of the cross-fitting: a channel is never asked about a row that it was fitted on."""
    seed: int = Field(ge=0)
    """Which row is in which fold."""

    @property
    def name(self) -> str:
        """Readable name."""
        return f"posterior-{self.labels.name}"

    def run(self, context: StageContext) -> None:
        """Write the posterior as labels."""
        labels = read_labels(context.path(self.labels))
        row_ids, weak_NC = labels.row_ids, labels.probabilities_NC
        posterior_NC = em_posterior(
            weak_NC,
            probabilities_of(context.path(self.prior), row_ids, "strong_train"),
            row_features(context.path(self.features), row_ids),
            rounds=self.rounds,
            inverse_regularization=self.inverse_regularization,
            num_folds=self.num_folds,
            seed=self.seed,
        )
        labels.write(context.output_dir, probabilities_NC=posterior_NC)


def em_posterior(
    weak_NC: Floats,
    prior_NC: Floats,
    features_ND: Floats,
    *,
    rounds: int,
    inverse_regularization: float,
    num_folds: int,
    seed: int,
) -> NDArray[np.float64]:
    """P(y | w, x) after some rounds, from a start at the product of prior and weak probabilities.

    Args:
        weak_NC: the supervisor's probabilities; w is their most probable class.
        prior_NC: P(y | x).
        features_ND: standardised.
        rounds: channel fits.
        inverse_regularization: of the channel.
        num_folds: of its cross-fitting.
        seed: of the folds.

    Returns:
        [N, C]; rows sum to 1.
    """
    num_classes = weak_NC.shape[1]
    observed_N = weak_NC.argmax(1)
    posterior_NC = bayes(prior_NC, weak_NC)
    for _ in range(rounds):
        likelihood_NC = np.stack(
            [
                cross_fitted(
                    features_ND,
                    observed_N,
                    num_classes,
                    num_folds=num_folds,
                    inverse_regularization=inverse_regularization,
                    seed=seed,
                    weights_N=posterior_NC[:, truth],
                )[np.arange(len(observed_N)), observed_N]
                for truth in range(num_classes)
            ],
            axis=1,
        )
        posterior_NC = bayes(prior_NC, likelihood_NC)
    return posterior_NC


def bayes(prior_NC: Floats, likelihood_NC: Floats) -> NDArray[np.float64]:
    """Prior times likelihood, each at least 1e-12, scaled so that rows sum to 1."""
    product_NC = np.maximum(prior_NC, 1e-12) * np.maximum(likelihood_NC, 1e-12)
    return product_NC / product_NC.sum(1, keepdims=True)
