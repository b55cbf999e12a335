"""The combiner and the weighting `dynamic` give members the same weights."""

import numpy as np

from w2s.combiners.dynamic import Dynamic
from w2s.weightings.dynamic import Dynamic as DynamicWeighting


def test_confident_members_weigh_more_by_hand() -> None:
    # Confidences .9 and .6: weights .6 and .4.
    found = Dynamic().combine(np.array([[[0.9, 0.1]], [[0.4, 0.6]]]))
    np.testing.assert_allclose(found, [[0.6 * 0.9 + 0.4 * 0.4, 0.6 * 0.1 + 0.4 * 0.6]])


def test_it_is_the_mean_by_the_weighting_of_the_same_name() -> None:
    members_MNC = np.random.default_rng(0).dirichlet(np.ones(3), (4, 10))
    weights_NM = DynamicWeighting().weights(np.log(members_MNC.transpose(1, 0, 2)))
    np.testing.assert_allclose(
        Dynamic().combine(members_MNC), np.einsum("nm,mnc->nc", weights_NM, members_MNC)
    )
