"""Rows and seeds drawn with replacement, and scores of many arrays on the same draws.

`Resamples` draws the rows once and scores arrays on them, by mean or by AUROC; `seed_weights` draws
seeds. Equal seeds give equal draws, so what is scored on them is paired. What comes of it is a
`Resampled` of `w2s.statistics`.

R resamples, N rows, G groups, K arrays, B resamples of a block, P positives.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Groups = Sequence[object] | NDArray[np.generic]
NUM_RESAMPLES = 2000
BLOCK = 64
"""Resamples scored at once: a block of 2,000 rows stays in the cache."""
TEACHING, CEILING = 0, 1
"""Streams of seeds: a floor, its supervisor and its student share one, the ceiling has its own."""
PIECE = 32
"""Rows that are added up by one matrix product."""
TRIANGLE = np.tril(np.ones((PIECE, PIECE), dtype=np.float32))


class Resamples:
    """Rows drawn with replacement, R times, for every array that is scored on them."""

    def __init__(
        self,
        num_rows: int,
        *,
        seed: int | Sequence[int],
        groups: Groups | None = None,
        num_resamples: int = NUM_RESAMPLES,
    ) -> None:
        """Draw.

        Args:
            num_rows: N.
            seed: of the draws; equal seeds give equal draws.
            groups: cluster of each row (question, entity); whole clusters are drawn.
            num_resamples: R.

        Raises:
            ValueError: no rows, or not one group a row.
        """
        if num_rows == 0:
            raise ValueError("no rows to resample")
        if groups is not None and len(groups) != num_rows:
            raise ValueError(
                f"need one group per row; found {len(groups)} groups for {num_rows} rows"
            )
        self.num_rows = num_rows
        self.num_resamples = num_resamples
        self._group_N = (
            np.unique(np.asarray(groups), return_inverse=True)[1] if (groups is not None) else None
        )
        num_groups = num_rows if self._group_N is None else int(self._group_N.max()) + 1
        rng = np.random.default_rng(seed)
        # How often each group comes up; small integers, because they are kept.
        self._counts = [
            _draws(rng, num_groups, min(BLOCK, num_resamples - start)).astype(np.uint16)
            for start in range(0, num_resamples, BLOCK)
        ]

    def means(self, scores_KN: Floats) -> Floats:
        """Mean of each array in each resample: [K, R]."""
        sums_KG = self._by_group(np.asarray(scores_KN, dtype=np.float64)).astype(np.float32)
        sizes_G = self._by_group(np.ones((1, self.num_rows)))[0].astype(np.float32)
        return np.concatenate(
            [
                (sums_KG @ counts_GB).astype(np.float64) / (sizes_G @ counts_GB)
                for counts_GB in self._blocks()
            ],
            axis=1,
        )

    def auroc(
        self, scores_KN: Floats, positive_N: NDArray[np.bool_], num_resamples: int | None = None
    ) -> Floats:
        """AUROC of each array in each of the first `num_resamples` (None: all): [K, R]."""
        wanted = num_resamples or self.num_resamples
        rankings = [Ranking(row_N, positive_N) for row_N in scores_KN]
        blocks: list[Floats] = []
        for counts_GB in itertools.islice(self._blocks(), -(-wanted // BLOCK)):
            weights_NB = counts_GB if self._group_N is None else counts_GB[self._group_N]
            blocks.append(np.stack([ranking.auroc(weights_NB) for ranking in rankings]))
        return np.concatenate(blocks, axis=1)[:, :wanted]

    def _blocks(self) -> Iterator[Floats]:
        for counts_GB in self._counts:
            yield counts_GB.astype(np.float32)

    def _by_group(self, values_KN: Floats) -> Floats:
        if self._group_N is None:
            return values_KN
        num_groups = int(self._group_N.max()) + 1
        return np.stack(
            [np.bincount(self._group_N, weights=row, minlength=num_groups) for row in values_KN]
        ).astype(np.float64)


def seed_weights(
    num_seeds: int, *, stream: int, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Floats:
    """Weights of seeds in each resample, [R, S], rows sum to 1; alike for equal arguments."""
    rng = np.random.default_rng([seed, stream, num_seeds])
    return _draws(rng, num_seeds, num_resamples).T / num_seeds


class Ranking:
    """Scores sorted once: what lies below a positive is a difference of cumulative weights."""

    def __init__(self, scores_N: Floats, positive_N: NDArray[np.bool_]) -> None:
        """Args: scores_N: of the rows. positive_N: whether a row is of the positive class."""
        order_N = np.argsort(scores_N, kind="stable")
        self._positives = order_N[positive_N[order_N]]
        self._negatives = order_N[~positive_N[order_N]]
        negative_scores, positive_scores = scores_N[self._negatives], scores_N[self._positives]
        self._below = np.searchsorted(negative_scores, positive_scores, side="left")
        self._up_to = np.searchsorted(negative_scores, positive_scores, side="right")
        self._tied = bool((self._below != self._up_to).any())

    def auroc(self, weights_NB: Floats) -> Floats:
        """AUROC under each column of row weights: [B]; ties count half, NaN if a class is missing.

        The share of the weight of (positive, negative) pairs in which the positive scores higher.
        """
        cumulative = _cumulative(weights_NB[self._negatives])
        weights_PB = weights_NB[self._positives]
        won_PB = cumulative[self._below]
        if self._tied:
            won_PB = (won_PB + cumulative[self._up_to]) / 2
        won_B = np.einsum("pb,pb->b", weights_PB, won_PB, dtype=np.float64)
        pairs_B = weights_PB.sum(0, dtype=np.float64) * cumulative[-1]
        return np.divide(won_B, pairs_B, out=np.full(len(pairs_B), np.nan), where=pairs_B > 0)


def _cumulative(weights_KB: Floats) -> Floats:
    """Sums of the first 0 to K rows: [K + 1, B].

    By matrix products over pieces of rows: three times as fast as adding row after row.
    """
    num_rows, width = weights_KB.shape
    num_pieces = -(-num_rows // PIECE)
    padded = np.zeros((num_pieces * PIECE, width), dtype=weights_KB.dtype)
    padded[:num_rows] = weights_KB
    sums = np.matmul(TRIANGLE, padded.reshape(num_pieces, PIECE, width))
    sums[1:] += np.cumsum(sums[:-1, -1:], axis=0)
    cumulative = np.zeros((num_rows + 1, width), dtype=weights_KB.dtype)
    cumulative[1:] = sums.reshape(-1, width)[:num_rows]
    return cumulative


def _draws(rng: np.random.Generator, count: int, num_resamples: int) -> NDArray[np.int64]:
    """How often each of `count` things comes up in `count` draws: [count, R]."""
    drawn_RG = rng.integers(0, count, size=(num_resamples, count))
    drawn_RG += np.arange(num_resamples)[:, None] * count
    counted = np.bincount(drawn_RG.ravel(), minlength=num_resamples * count)
    return counted.reshape(num_resamples, count).T
