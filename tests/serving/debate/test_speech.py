import pytest

from serving.debate.prompts import cut
from serving.debate.quotes import closed, verified
from serving.debate.speech import split_thinking

PASSAGE = "The  fox ran;\nit didn't stop. \u201cNever,\u201d she said."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<quote>the fox ran</quote>", "<v_quote>the fox ran</v_quote>"),
        ("<quote>Fox ran, it</quote>", "<v_quote>Fox ran, it</v_quote>"),
        ('<quote>"never" she</quote>', '<v_quote>"never" she</v_quote>'),
        ("<quote>the hare ran</quote>", "<u_quote>the hare ran</u_quote>"),
        ("<quote>ox ran</quote>", "<u_quote>ox ran</u_quote>"),
        ("<quote>ran fox</quote>", "<u_quote>ran fox</u_quote>"),
        ("<quote> . </quote>", "<u_quote> . </u_quote>"),
        ("no quote", "no quote"),
        ("a <quote>ran</quote> b <quote>no</quote> c", None),
    ],
)
def test_a_quote_is_verified_word_for_word(text: str, expected: str | None) -> None:
    if expected is None:
        expected = "a <v_quote>ran</v_quote> b <u_quote>no</u_quote> c"
    assert verified(text, PASSAGE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<v_quote>a lie</v_quote>", "<u_quote>a lie</u_quote>"),
        ("<v_quote>a lie</quote>", "<u_quote>a lie</u_quote>"),
        ("<quote><v_quote>a lie</v_quote>", "<u_quote>a lie</u_quote>"),
        ("a lie</v_quote> and more", "a lie and more"),
        ("<v_quote>a lie", "<u_quote>a lie</u_quote>"),
        ("it <quote>didn't stop", "it <v_quote>didn't stop</v_quote>"),
    ],
)
def test_a_speaker_cannot_mark_its_own_quotes(text: str, expected: str) -> None:
    assert verified(text, PASSAGE) == expected


def test_without_a_passage_nothing_is_verified() -> None:
    assert verified("<quote>fox</quote>", "") == "<u_quote>fox</u_quote>"


def test_a_quote_that_is_cut_is_closed() -> None:
    assert cut("so <v_quote>the fox ran</v_quote> on", 3) == "so <v_quote>the fox</v_quote>"
    assert cut("so <v_quote>the</v_quote> fox ran", 3) == "so <v_quote>the</v_quote> fox"
    assert closed("<u_quote>a</u_quote> <quote>b") == "<u_quote>a</u_quote> <quote>b</quote>"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("<thinking> hm </thinking>\n<argument> so </argument> rest", ("so", "hm")),
        ("<thinking>hm</thinking><argument>so", ("so", "hm")),
        (" hm</thinking><argument>so", ("so", "hm")),
        ("<thinking>hm</thinking> so", ("so", "hm")),
        ("hm <argument>so", ("so", "hm")),
        ("so", ("so", "")),
        ("<thinking>hm and no end", ("", "hm and no end")),
    ],
)
def test_private_thinking_is_taken_apart(written: str, expected: tuple[str, str]) -> None:
    assert split_thinking(written) == expected
