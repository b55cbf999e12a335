import math

import pytest

from serving.errors import ServingInputError
from serving.scoring import continuations


def test_choices_of_one_token_need_the_next_token_after_the_prompt_alone():
    one = continuations([5, 6], [[5, 6, 7], [5, 6, 8]], ["a", "b"])
    assert one.context == (5, 6)
    assert one.next_tokens() == {(): [7, 8]}
    assert one.scores({(): {7: -0.25, 8: -2.0}}) == (-0.25, -2.0)


def test_log_probability_of_a_longer_choice_is_the_sum_over_its_tokens():
    one = continuations([1], [[1, 2, 3], [1, 2, 4], [1, 5]], ["a", "b", "c"])
    # The shared beginning `2` is asked for once.
    assert one.next_tokens() == {(): [2, 5], (2,): [3, 4]}
    found = one.scores(
        {(): {2: math.log(0.5), 5: math.log(0.25)}, (2,): {3: math.log(0.4), 4: math.log(0.6)}}
    )
    assert found == pytest.approx([math.log(0.2), math.log(0.3), math.log(0.25)])


def test_choices_are_scored_from_the_same_token_where_one_merges_with_the_prompt():
    # "an" is one token with the second choice: the last token of the prompt is scored with both.
    one = continuations(["x", "a"], [["x", "a", "b"], ["x", "an"]], ["b", "n"])
    assert one.context == ("x",)
    assert one.tails == (("a", "b"), ("an",))


@pytest.mark.parametrize(
    ("wholes", "message"),
    [
        ([[1, 2], [1]], r"choice 'no' adds no token"),
        ([[1, 2], [1, 2]], r"choices 'yes' and 'no' are the same tokens"),
        ([[2, 3], [1, 2]], r"begin the prompt with some text"),
    ],
)
def test_choices_that_cannot_be_scored_are_refused(wholes: list[list[int]], message: str):
    with pytest.raises(ServingInputError, match=message):
        continuations([1], wholes, ["yes", "no"])
