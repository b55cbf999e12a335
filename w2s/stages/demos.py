"""Demonstrations for in-context prompting: which labelled rows a query is shown.

The pool is `strong_train` with some labels: a supervisor's, or the truth. A query never sees a row
of its own group, itself included: another answer to the same question would tell too much. N rows
of the pool, Q queries, K demonstrations a query, D features.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, model_validator
from scipy.sparse import csr_matrix, issparse

from serving.messages import seed_of
from w2s.spec import Spec
from w2s.stages.base import Stage

HASHED_WORDS = 2**18
"""Columns that words are hashed to."""
BLOCK = 256
"""Queries compared with the pool at once."""


class Demonstrations(Spec):
    """Labelled rows that a query is shown (Burns et al. 2023, section 5.2.1; Sang et al. 2024)."""

    labels: SerializeAsAny[Stage]
    """Labels of `strong_train`: a supervisor's predictions, or the ground truth."""
    number: int = Field(ge=1, le=64)
    """Demonstrations a query."""
    selection: Literal["random", "nearest"] = "random"
    """At random, at most number // 2 + 1 of a class, afresh for each query; or those most similar
    to the query, the most similar one last."""
    neighbours: SerializeAsAny[Stage] | None = None
    """Features whose cosine is the similarity; None: that of hashed TF-IDF vectors of the words."""
    show_confidence: bool = False
    """Whether the probability of the label is shown beside it."""
    seed: int = Field(default=0, ge=0)
    """Of the random selection."""

    @model_validator(mode="after")
    def _features_are_for_neighbours(self) -> Self:
        if self.neighbours is not None and self.selection != "nearest":
            raise ValueError(f"neighbours are for selection 'nearest'; found {self.selection!r}")
        return self


def choose_random(
    labels_N: NDArray[np.integer],
    groups_N: NDArray[np.object_],
    row_id: str,
    group: str,
    *,
    number: int,
    seed: int,
) -> list[int]:
    """Positions of at most `number` rows, at most number // 2 + 1 of a class.

    Args:
        labels_N: class of each row of the pool.
        groups_N: its group.
        row_id: of the query; every query draws for itself.
        group: of the query; its rows are left out.
        number: how many.
        seed: of the draw.
    """
    limit = number // 2 + 1
    chosen: list[int] = []
    of_class: Counter[int] = Counter()
    for position in np.random.default_rng(seed_of("demos", seed, row_id)).permutation(
        len(labels_N)
    ):
        label = int(labels_N[position])
        if of_class[label] < limit and groups_N[position] != group:
            chosen.append(int(position))
            of_class[label] += 1
            if len(chosen) == number:
                break
    return chosen


def choose_nearest(
    pool_ND: NDArray[np.floating] | csr_matrix,
    queries_QD: NDArray[np.floating] | csr_matrix,
    pool_groups_N: NDArray[np.object_],
    query_groups_Q: NDArray[np.object_],
    *,
    number: int,
) -> list[list[int]]:
    """Positions in the pool of the rows with the largest cosine, the largest last.

    Args:
        pool_ND: unit vectors of the pool.
        queries_QD: unit vectors of the queries.
        pool_groups_N: groups of the pool.
        query_groups_Q: groups of the queries; rows of a query's own group are left out.
        number: how many a query, or as many as there are.
    """
    names = {name: code for code, name in enumerate(dict.fromkeys(pool_groups_N))}
    codes_N = np.array([names[name] for name in pool_groups_N])
    codes_Q = np.array([names.get(name, -1) for name in query_groups_Q])
    number = min(number, len(codes_N))
    chosen: list[list[int]] = []
    for start in range(0, len(codes_Q), BLOCK):
        part = slice(start, start + BLOCK)
        product: Any = queries_QD[part] @ pool_ND.T
        cosine_QN = product.toarray() if issparse(product) else product
        cosine_QN[codes_Q[part, None] == codes_N] = -np.inf
        top_QK = np.argpartition(cosine_QN, -number, axis=1)[:, -number:]
        for cosine_N, top_K in zip(cosine_QN, top_QK, strict=True):
            # By position where rows are equally similar.
            order = np.lexsort((-top_K, cosine_N[top_K]))
            chosen.append([int(k) for k in top_K[order] if cosine_N[k] > -np.inf])
    return chosen


def word_vectors(pool: Sequence[str], queries: Sequence[str]) -> tuple[csr_matrix, csr_matrix]:
    """Unit TF-IDF vectors of texts over hashed words; how rare a word is, the pool says."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    # Counts as they are, so that the weighing below is all there is; the stubs forget None.
    count = HashingVectorizer(
        n_features=HASHED_WORDS,
        alternate_sign=False,
        norm=None,  # pyright: ignore[reportArgumentType]
    )
    weigh = TfidfTransformer(sublinear_tf=True)
    pool_ND = csr_matrix(weigh.fit_transform(count.transform(pool)))
    return pool_ND, csr_matrix(weigh.transform(count.transform(queries)))


def unit(features_ND: NDArray[np.floating]) -> NDArray[np.floating]:
    """Feature vectors (of one or of several texts a row) at length 1; zeros stay."""
    flat_ND = features_ND.reshape(len(features_ND), -1)
    return flat_ND / np.maximum(np.linalg.norm(flat_ND, axis=1, keepdims=True), 1e-12)
