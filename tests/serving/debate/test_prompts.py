import pytest

from serving.debate.prompts import DebatePrompts, first_words
from serving.debate.types import Position, Question, Side, Turn
from serving.errors import ServingInputError

TERSE = DebatePrompts(
    first="{question} {position}",
    reply="{question} {transcript} {position}",
    later="{question} {transcript} {position}",
    turn_template="{position} {text}",
    joiner=" ",
    correct_name="pro:",
    incorrect_name="con:",
    max_tokens=(7, 7, 3),
    exact_length=True,
    stop=(),
)
QUESTION = Question("e1", "Q: E city Tola")


def turn(side: Side, position: Position, text: str) -> Turn:
    return Turn(side, position, text, len(text.split()), "length", 1, "m", "d")


def test_closed_vocabulary_form_puts_position_markers_around_the_texts():
    pro, con = turn("A", "correct", "a b ."), turn("B", "incorrect", "c d")
    assert TERSE.prompt(QUESTION, "A", "correct", 0, []) == "Q: E city Tola pro:"
    assert TERSE.prompt(QUESTION, "B", "incorrect", 1, [pro]) == "Q: E city Tola pro: a b . con:"
    assert (
        TERSE.prompt(QUESTION, "A", "correct", 2, [pro, con])
        == "Q: E city Tola pro: a b . con: c d pro:"
    )
    assert TERSE.render([pro, con]) == "pro: a b . con: c d"
    assert TERSE.render([pro, con], QUESTION) == "Q: E city Tola pro: a b . con: c d"


def test_last_token_limit_holds_for_later_turns():
    assert [TERSE.tokens_of(index) for index in range(5)] == [7, 7, 3, 3, 3]


def test_default_prompts_name_side_and_position_and_end_at_the_speaker():
    prompts = DebatePrompts()
    opening = prompts.prompt(QUESTION, "A", "incorrect", 0, [])
    reply = prompts.prompt(QUESTION, "B", "correct", 1, [turn("A", "incorrect", "No, because.")])
    assert opening.endswith("Debater A (the answer is incorrect):")
    assert reply.endswith("Debater B (the answer is correct):")
    assert "Debater A (the answer is incorrect): No, because." in reply
    assert "flaws" in reply


def test_prompts_of_one_debate_share_everything_up_to_the_transcript():
    prompts = DebatePrompts()
    first, second = turn("A", "correct", "Because one."), turn("B", "incorrect", "Not two.")
    reply = prompts.prompt(QUESTION, "B", "incorrect", 1, [first])
    later = prompts.prompt(QUESTION, "A", "correct", 2, [first, second])
    shared = reply[: reply.index("Because one.") + len("Because one.")]
    assert later.startswith(shared)


def test_braces_in_question_and_argument_are_plain_text():
    question = Question("q", "What is {x}?")
    seen = [turn("A", "correct", "It is {y}.")]
    assert TERSE.prompt(question, "B", "incorrect", 1, seen) == "What is {x}? pro: It is {y}. con:"


def test_truncation_cuts_arguments_at_the_same_word_and_never_the_question():
    turns = [turn("A", "correct", "a b c d"), turn("B", "incorrect", "e f g h")]
    words = 4

    def count(text: str) -> int:
        return len(text.split())

    # Question 4 words, markers 2: eight words leave one word for each argument, nine still one.
    for limit in (words + 4, words + 5):
        cut = TERSE.render(turns, QUESTION, max_length=limit, measure=count)
        assert cut == "Q: E city Tola pro: a con: e"
    assert TERSE.render(turns, QUESTION, max_length=14, measure=count).endswith("con: e f g h")


def test_question_longer_than_the_limit_is_refused():
    with pytest.raises(ServingInputError, match=r"e1: .* raise the limit"):
        TERSE.render([turn("A", "correct", "a")], QUESTION, max_length=3)


def test_prompt_limit_keeps_question_and_ending():
    short = TERSE.model_copy(update={"max_prompt_chars": 33})
    prompt = short.prompt(QUESTION, "B", "incorrect", 1, [turn("A", "correct", "long " * 40)])
    assert prompt.startswith("Q: E city Tola pro: long")
    assert prompt.endswith(" con:")
    assert len(prompt) <= 33


def test_first_words_keeps_inner_white_space():
    assert first_words("a\n b  c", 2) == "a\n b"
    assert first_words("a b", 0) == ""
    assert first_words("a b", 9) == "a b"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("first", "{question} {answer}", "unknown placeholder 'answer'; allowed: "),
        ("reply", "{question}", "placeholder 'transcript' is missing"),
        ("turn_template", "{side}", "placeholder 'text' is missing"),
        ("max_tokens", (7, 0), "must be 1 or more"),
    ],
)
def test_unusable_templates_are_refused_while_parsing(field: str, value: object, message: str):
    with pytest.raises(ValueError, match=message):
        DebatePrompts.model_validate({field: value})


def test_digest_follows_every_field():
    changed = {
        "task": "Here is a riddle.",
        "first": "{question}",
        "reply": "{question} {transcript}",
        "later": "{question} {transcript}",
        "consult": "{question}",
        "consult_again": "{question} {transcript}",
        "ask": "{question} {transcript}",
        "choose": "{question}",
        "verdict": "{question} {transcript}",
        "thinking_rule": "Think.",
        "quotes_rule": "Quote.",
        "words_rule": "{max_words}",
        "turn_template": "{text}",
        "ask_template": "{text}",
        "joiner": "|",
        "correct_name": "yes",
        "incorrect_name": "no",
        "correct_label": " yes",
        "incorrect_label": " no",
        "max_tokens": (1,),
        "thinking_tokens": 1,
        "question_tokens": 1,
        "exact_length": True,
        "stop": ("x",),
        "max_words": 9,
        "max_prompt_chars": 10,
    }
    assert set(changed) == set(DebatePrompts.model_fields)
    digests = {
        DebatePrompts.model_validate({name: value}).digest for name, value in changed.items()
    }
    assert len(digests | {DebatePrompts().digest}) == len(changed) + 1
