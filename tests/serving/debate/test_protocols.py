"""What each kind of debate is, and what can be added to any of them, with scripted speakers."""

import asyncio
from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from serving.client import Scores
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.protocols.consultancy import Consultancy
from serving.debate.protocols.market_making import MarketMaking
from serving.debate.protocols.sequential import Sequential
from serving.debate.protocols.simultaneous import Simultaneous
from serving.debate.run import run_debates
from serving.debate.types import Position, Question, Transcript
from serving.errors import ServingInputError
from tests.serving.debate.recording import Recording, speakers

QUESTIONS = [Question(f"q{index}", f"Is {index} even?") for index in range(40)]
EVEN: dict[str, Position] = {
    question.id: "correct" if index % 2 == 0 else "incorrect"
    for index, question in enumerate(QUESTIONS)
}


def debate(
    protocol: DebateProtocol,
    debater: Recording,
    opponent: Recording | None = None,
    judge: Recording | None = None,
    *,
    questions: Sequence[Question] = QUESTIONS,
    prompts: DebatePrompts | None = None,
    picks: dict[str, Position] | None = None,
) -> dict[str, Transcript]:
    found: dict[str, Transcript] = {}
    asyncio.run(
        run_debates(
            protocol,
            questions,
            speakers(debater, opponent, judge),
            seed=0,
            prompts=prompts or DebatePrompts(),
            on_transcript=lambda transcript: found.update({transcript.question_id: transcript}),
            picks=picks,
        )
    )
    return found


def read_by(transcript: Transcript, model: Recording) -> list[list[int]]:
    """For each turn the numbers of the turns whose text its speaker read."""
    return [
        [
            number
            for number, seen in enumerate(transcript.turns)
            if f"said{seen.seed}" in model.prompts[turn.seed]
        ]
        for turn in transcript.turns
    ]


@pytest.mark.parametrize(
    ("protocol", "sides", "read"),
    [
        (Sequential(), "ABA", [[], [0], [0, 1]]),
        (Simultaneous(num_rounds=2), "ABAB", [[], [], [0, 1], [0, 1]]),
        (Simultaneous(num_rounds=2, own_turns=False), "ABAB", [[], [], [1], [0]]),
        (Consultancy(num_turns=2), "AA", [[], [0]]),
        (Consultancy(position="both", num_turns=2), "ABAB", [[], [], [0], [1]]),
        (MarketMaking(num_turns=3), "AAA", [[], [0], [0, 1]]),
        (Sequential(num_turns=2, judge_questions=True), "AjB", [[], [0], [0, 1]]),
        (
            Simultaneous(num_rounds=2, judge_questions=True),
            "ABjAB",
            [[], [], [0, 1], [0, 1, 2], [0, 1, 2]],
        ),
        (
            Consultancy(position="both", num_turns=2, judge_questions=True),
            "ABjAB",
            [[], [], [0, 1], [0, 2], [1, 2]],
        ),
    ],
)
def test_who_reads_whom(protocol: DebateProtocol, sides: str, read: list[list[int]]) -> None:
    model = Recording()
    (transcript,) = debate(protocol, model, questions=QUESTIONS[:1], picks=EVEN).values()
    assert "".join(turn.side[0] for turn in transcript.turns) == sides
    assert read_by(transcript, model) == read


def test_a_fixed_order_says_who_defends_what() -> None:
    for protocol in (Sequential(), Consultancy()):
        defended = [
            {transcript.position_of("A") for transcript in debate(order, Recording()).values()}
            for order in protocol.in_orders()
        ]
        assert defended == [{"correct"}, {"incorrect"}]


def test_market_making_argues_for_what_was_not_picked() -> None:
    found = debate(MarketMaking(), Recording(), picks=EVEN)
    assert all(
        transcript.position_of("A") != EVEN[name] and len(transcript.turns) == 1
        for name, transcript in found.items()
    )
    with pytest.raises(ServingInputError, match="nothing is known of 1 questions; first: q7"):
        debate(MarketMaking(), Recording(), picks={k: v for k, v in EVEN.items() if k != "q7"})


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (MarketMaking, {"open": True}, "Input should be False"),
        (MarketMaking, {"order": "A_correct"}, "Input should be 'drawn'"),
        (Consultancy, {"open": True, "order": "B_correct"}, "order 'B_correct' has no meaning"),
    ],
)
def test_positions_have_one_source(
    kind: type[DebateProtocol], fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(fields)


def knows_even(prompt: str) -> Scores:
    """Believes that 0, 2, 4 ... are even."""
    number = int(prompt.partition("Is ")[2].split()[0])
    return (-1.0, -2.0) if number % 2 == 0 else (-2.0, -1.0)


def test_an_open_consultant_argues_for_what_it_believes() -> None:
    found = debate(Consultancy(open=True), Recording(knows_even))
    assert {name: transcript.position_of("A") for name, transcript in found.items()} == EVEN
    assert {name: transcript.chosen for name, transcript in found.items()} == EVEN


def test_the_protagonist_of_an_open_debate_speaks_for_its_choice_on_either_side() -> None:
    found = debate(Simultaneous(open=True, num_rounds=1), Recording(knows_even), Recording())
    sides = set()
    for name, transcript in found.items():
        own = next(turn for turn in transcript.turns if turn.position == EVEN[name])
        (others,) = (turn for turn in transcript.turns if turn is not own)
        assert (own.model, others.model) == ("debater", "opponent")
        assert transcript.chosen == EVEN[name]
        sides.add(own.side)
    assert sides == {"A", "B"}


def test_of_several_candidates_the_one_is_said_that_most_persuades_the_judge() -> None:
    def likes_nines(prompt: str) -> Scores:
        """Holds the answer for the likelier correct, the more nines there are in the text."""
        return (0.1 * prompt.count("9"), -0.1 * prompt.count("9"))

    debater, judge = Recording(), Recording(likes_nines)
    found = debate(Sequential(best_of=5, num_turns=2), debater, judge=judge)
    for transcript in found.values():
        for turn in transcript.turns:
            assert len(set(turn.candidates)) == 5
            nines = [text.count("9") for text in turn.candidates]
            best = max(nines) if turn.position == "correct" else min(nines)
            assert turn.candidates.index(turn.text) == nines.index(best)
    assert len(judge.scored) == 2 * 5 * len(QUESTIONS)
    assert len(debater.prompts) == 2 * 5 * len(QUESTIONS)
    assert judge.prompts == {}


def test_of_equally_persuasive_candidates_the_first_is_said() -> None:
    found = debate(Consultancy(best_of=3), Recording())
    turns = [turn for transcript in found.values() for turn in transcript.turns]
    assert all(turn.text == turn.candidates[0] for turn in turns)


def test_the_best_of_several_reads_the_debate_so_far() -> None:
    judge = Recording()
    (transcript,) = debate(
        Simultaneous(num_rounds=2, best_of=2), Recording(), judge=judge, questions=QUESTIONS[:1]
    ).values()
    first, second = transcript.turns[:2]
    for number, text in enumerate(judge.scored):
        in_second_round = number >= 4
        assert (first.text in text and second.text in text) == in_second_round
    assert sum(turn.text in text for text in judge.scored for turn in transcript.turns[2:]) == 2


def test_speakers_are_told_the_rules_and_words_beyond_the_limit_are_cut() -> None:
    model = Recording(words=9)
    prompts = DebatePrompts(max_words=4)
    found = debate(Sequential(verify_quotes=True, thinking=True), model, prompts=prompts)
    for prompt in model.prompts.values():
        assert "at most 4 words" in prompt
        assert "<quote>" in prompt
        assert "<thinking>" in prompt
    for transcript in found.values():
        assert all(len(turn.text.split()) == 4 for turn in transcript.turns)
        assert all(turn.thinking == f"thought{turn.seed}" for turn in transcript.turns)
    assert {sampling.stop for sampling in model.samplings} == {("</argument>",)}
    assert {sampling.max_tokens for sampling in model.samplings} == {192 + 256}


@pytest.mark.parametrize(
    ("protocol", "tokens"),
    [
        (Sequential(num_turns=4), [7, 6, 3, 3]),
        (Simultaneous(num_rounds=2), [7, 3]),
        (Simultaneous(num_rounds=2, own_turns=False), [7, 6]),
        (Consultancy(position="both", num_turns=2), [7, 6]),
        (Sequential(num_turns=2, judge_questions=True), [7, 5, 6]),
    ],
)
def test_how_long_an_argument_may_be_follows_from_what_its_speaker_reads(
    protocol: DebateProtocol, tokens: list[int]
) -> None:
    model = Recording()
    prompts = DebatePrompts(max_tokens=(7, 6, 3), question_tokens=5)
    debate(protocol, model, questions=QUESTIONS[:1], prompts=prompts)
    assert [sampling.max_tokens for sampling in model.samplings] == tokens


def test_without_rules_the_prompt_says_nothing_of_them() -> None:
    model = Recording()
    debate(Sequential(), model)
    assert not any(
        word in prompt
        for prompt in model.prompts.values()
        for word in ("<quote>", "<thinking>", "at most", "{")
    )


def test_quotes_are_checked_against_the_passage_of_the_question() -> None:
    class Quoting(Recording):
        def reply(self, prompt: str, seed: int) -> str:
            return "It says <quote>the Sky, was red</quote>, not <quote>blue</quote>."

    question = Question("q", "The sky was red.\n\nQ: Is it?", passage="The sky was red.")
    (transcript,) = debate(
        Consultancy(verify_quotes=True), Quoting(), questions=[question]
    ).values()
    assert transcript.turns[0].text == (
        "It says <v_quote>the Sky, was red</v_quote>, not <u_quote>blue</u_quote>."
    )


def test_a_judge_reads_the_question_without_what_is_hidden_from_it() -> None:
    question = Question("q", "Secret story.\n\nQ: Is it?", judge_text="Q: Is it?")
    debater, judge = Recording(), Recording()
    debate(
        Simultaneous(judge_questions=True, best_of=2), debater, judge=judge, questions=[question]
    )
    assert all("Secret story." in prompt for prompt in debater.prompts.values())
    assert judge.prompts
    assert judge.scored
    assert not any("Secret" in text for text in [*judge.prompts.values(), *judge.scored])


@pytest.mark.parametrize(
    ("option", "template"),
    [
        ("judge_questions", "ask"),
        ("thinking", "thinking_rule"),
        ("verify_quotes", "quotes_rule"),
    ],
)
def test_what_a_task_has_no_words_for_is_refused(option: str, template: str) -> None:
    prompts = DebatePrompts.model_validate({template: ""})
    with pytest.raises(ServingInputError, match=f"{option} = true, but .* no `{template}`"):
        debate(Sequential.model_validate({option: True}), Recording(), prompts=prompts)
    debate(Sequential(), Recording(), prompts=prompts)
