from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from w2s.stages.data import GroundTruth
from w2s.stages.demos import Demonstrations, choose_nearest, choose_random, unit, word_vectors
from w2s.tasks.almanac import Almanac


def objects(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


def test_random_demonstrations_have_at_most_half_and_one_of_a_class():
    labels = np.array([1] * 90 + [0] * 10)
    groups = objects(*map(str, range(100)))
    for number, most in ((4, 3), (5, 3), (1, 1)):
        for row in range(50):
            chosen = choose_random(labels, groups, f"row{row}", "-", number=number, seed=0)
            assert len(set(chosen)) == number
            assert max(Counter(labels[chosen].tolist()).values()) <= most


def test_each_query_draws_its_own_and_the_seed_draws_others():
    labels, groups = np.array([0, 1] * 50), objects(*map(str, range(100)))

    def drawn(row: str, seed: int) -> tuple[int, ...]:
        return tuple(choose_random(labels, groups, row, "-", number=5, seed=seed))

    assert drawn("a", 0) == drawn("a", 0)
    assert len({drawn(row, seed) for row in "abcd" for seed in range(5)}) == 20


def test_no_demonstration_is_of_the_group_of_the_query():
    labels, groups = np.array([0, 1, 0, 1]), objects("g", "g", "h", "h")
    for row in range(30):
        assert set(choose_random(labels, groups, f"r{row}", "g", number=4, seed=0)) == {2, 3}
    same = np.eye(2)[[0, 0, 1, 1]]
    assert choose_nearest(same, same[:1], groups, objects("g"), number=4) == [[3, 2]]


def test_nearest_by_features_come_in_order_of_their_cosine_the_nearest_last():
    # Angles to the query (1, 0): 0, 90, 45, 180 degrees; lengths do not count.
    pool = unit(np.array([[9.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-3.0, 0.0]]))
    query = unit(np.array([[2.0, 0.0]]))
    groups = objects("a", "b", "c", "d")
    assert choose_nearest(pool, query, groups, objects("q"), number=3) == [[1, 2, 0]]
    assert choose_nearest(pool, query, groups, objects("q"), number=9) == [[3, 1, 2, 0]]


def test_nearest_is_the_same_whatever_the_number_of_queries():
    generator = np.random.default_rng(0)
    pool, queries = (unit(generator.normal(size=(n, 8))) for n in (40, 600))
    groups, asked = objects(*map(str, range(40))), objects(*["q"] * 600)
    together = choose_nearest(pool, queries, groups, asked, number=3)
    assert together == [
        choose_nearest(pool, query[None], groups, objects("q"), number=3)[0] for query in queries
    ]
    brute = [np.argsort(pool @ query)[-3:].tolist() for query in queries]
    assert together == brute


def test_options_of_a_row_are_one_vector_of_length_1():
    np.testing.assert_allclose(unit(np.full((2, 2, 2), 3.0)), np.full((2, 4), 0.5))
    np.testing.assert_array_equal(unit(np.zeros((1, 3))), np.zeros((1, 3)))


def test_rare_words_say_more_than_common_ones():
    pool = ["the zebra is here", "the cat is here", "the dog is here", "the cow is here"]
    vectors = word_vectors(pool, ["the cat was there", "a zebra"])
    groups = objects("0", "1", "2", "3")
    chosen = choose_nearest(*vectors, groups, objects("x", "y"), number=1)
    assert chosen == [[1], [0]]
    norms = np.sqrt(vectors[0].multiply(vectors[0]).sum(1))
    np.testing.assert_allclose(norms, 1.0)


def test_neighbours_without_nearest_are_refused():
    stage = GroundTruth(task=Almanac(), split="strong_train")
    with pytest.raises(ValidationError, match=r"neighbours are for selection 'nearest'"):
        Demonstrations(labels=stage, number=1, neighbours=stage)
