"""Questions that somebody types about a world."""

import pytest

from w2s.almanac.typed import typed_question
from w2s.almanac.world import World
from w2s.errors import UserError
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import Task, load

WORLD = World(seed=100)
ROWS = load(Almanac(world=WORLD)).rows["test"]


def test_every_row_can_be_typed_and_its_truth_is_known():
    for row in ROWS[:40]:
        assert typed_question(WORLD, row.prompt) == (row.prompt, row.label)
    assert typed_question(WORLD, ROWS[0].prompt.removeprefix("Q: ")) == (
        ROWS[0].prompt,
        ROWS[0].label,
    )


@pytest.mark.parametrize(
    ("place", "word", "reason"),
    [
        (1, "Nobody", "no given name 'Nobody'"),
        (2, "Nobody", "is of the family"),
        (3, "weight", "no relation 'weight'; there are: "),
        (4, "Nowhere", "no value of "),
    ],
)
def test_a_word_without_a_place_is_named_with_the_form_and_an_example(
    place: int, word: str, reason: str
):
    words = ROWS[0].prompt.split()
    words[place] = word
    with pytest.raises(UserError) as refused:
        typed_question(WORLD, " ".join(words))
    message = str(refused.value)
    assert reason in message
    assert "GIVEN FAMILY RELATION VALUE, such as 'Q: " in message


def test_a_slip_of_the_pen_is_answered_with_what_is_near():
    words = ROWS[0].prompt.split()
    with pytest.raises(UserError, match=f"near it: .*{words[1]}"):
        typed_question(WORLD, " ".join([words[1].lower(), *words[2:]]))


def test_a_sentence_is_refused():
    with pytest.raises(UserError, match=r"found 6 words in .*, needed 4"):
        typed_question(WORLD, "Where does Ada Moss live today")


def test_a_task_takes_any_question_unless_it_says_otherwise():
    assert Task(kind="any").typed("  Is it so?\n") == ("Is it so?", None)
    assert Almanac(world=WORLD).typed(ROWS[0].prompt) == (ROWS[0].prompt, ROWS[0].label)
    with pytest.raises(UserError, match="the question is empty"):
        Task(kind="any").typed("   ")
