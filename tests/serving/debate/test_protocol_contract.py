"""What every debate protocol promises, with scripted speakers; a new kind is tested by being."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from serving.client import Scores
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.run import live_debate, run_debates
from serving.debate.types import POSITIONS, Position, Question, Side, Speaker, Transcript, Turn
from serving.errors import ServingInputError
from tests.serving.debate.recording import Recording, speakers
from w2s.spec import available, lookup, parse

KINDS = available(DebateProtocol)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"judge_questions": True},
    {"best_of": 3},
    {"open": True},
    {"thinking": True, "judge_questions": True, "best_of": 2},
)
LONGER = {"num_turns": 3, "num_rounds": 3, "position": "both"}
QUESTIONS = [Question(f"q{index}", f"Is {index} even, or rather odd?") for index in range(8)]


def with_options(kind: str, options: Mapping[str, Any], *, longer: bool = False) -> DebateProtocol:
    fields = lookup(DebateProtocol, kind).model_fields
    more = {name: value for name, value in LONGER.items() if longer and name in fields}
    return parse(DebateProtocol, {"kind": kind, **more, **options})


def all_of(kinds: Sequence[str] = KINDS) -> list[Any]:
    """Every kind with every option that it can have, short and long."""
    found = [
        pytest.param(
            with_options(kind, options, longer=longer),
            id="-".join([kind, *(["long"] if longer else []), *options]),
        )
        for kind in kinds
        for options in OPTIONS
        for longer in (False, True)
        if not (options.get("open") and lookup(DebateProtocol, kind).argues_against)
    ]
    assert len(found) >= len(kinds) * 2
    return found


WITH_ORDERS = [case for case in all_of() if case.values[0].has_orders]


def debates(
    protocol: DebateProtocol,
    model: Recording | None = None,
    *,
    questions: Sequence[Question] = QUESTIONS,
    seed: int = 0,
    speak: Mapping[Side, Speaker] | None = None,
    prompts: DebatePrompts | None = None,
    finished: Sequence[str] = (),
    per_batch: int = 3,
) -> list[Transcript]:
    found: list[Transcript] = []
    asyncio.run(
        run_debates(
            protocol,
            questions,
            speak or speakers(model or Recording()),
            seed=seed,
            prompts=prompts or DebatePrompts(),
            on_transcript=found.append,
            picks=picks(questions),
            finished=finished,
            debates_per_batch=per_batch,
        )
    )
    return sorted(found, key=lambda transcript: transcript.question_id)


def picks(questions: Sequence[Question]) -> dict[str, Position]:
    return {question.id: POSITIONS[len(question.id) % 2] for question in questions}


@pytest.mark.parametrize("protocol", all_of())
def test_turns_are_made_in_the_order_of_the_slots(protocol: DebateProtocol) -> None:
    slots = protocol.slots()
    rounds = [slot.round for slot in slots]
    assert rounds == sorted(rounds)
    assert set(rounds) == set(range(rounds[-1] + 1))
    for transcript in debates(protocol):
        assert [(turn.side, turn.round) for turn in transcript.turns] == [
            (slot.side, slot.round) for slot in slots
        ]


@pytest.mark.parametrize("protocol", all_of())
def test_a_side_keeps_its_position_and_a_judge_has_none(protocol: DebateProtocol) -> None:
    for transcript in debates(protocol):
        by_side = {
            side: {turn.position for turn in transcript.turns if turn.side == side}
            for side in (*protocol.sides, "judge")
        }
        assert by_side.pop("judge") <= {""}
        defended = [position for (position,) in by_side.values()]
        assert set(defended) <= set(POSITIONS)
        assert len(set(defended)) == len(defended)


@pytest.mark.parametrize("protocol", all_of())
def test_a_prompt_holds_the_turns_that_may_be_read_and_no_thought(protocol: DebateProtocol) -> None:
    model = Recording()
    for transcript in debates(protocol, model):
        for turn in transcript.turns:
            earlier = [seen for seen in transcript.turns if seen.round < turn.round]
            readable = earlier if turn.side == "judge" else protocol.visible(earlier, turn.side)
            prompt = model.prompts[turn.seed]
            for seen in transcript.turns:
                name = f"said{seen.seed}"
                assert (name in prompt) == any(seen is other for other in readable), (turn, seen)
    texts = [*model.prompts.values(), *model.scored]
    if protocol.thinking:
        assert not any("thought" in text for text in texts)


@pytest.mark.parametrize("protocol", all_of())
def test_a_question_stands_whole_in_every_prompt(protocol: DebateProtocol) -> None:
    model = Recording()
    found = debates(protocol, model)
    by_id = {question.id: question.text for question in QUESTIONS}
    for transcript in found:
        for turn in transcript.turns:
            assert by_id[transcript.question_id] in model.prompts[turn.seed]


@pytest.mark.parametrize("protocol", WITH_ORDERS)
def test_positions_are_a_fair_coin_that_knows_no_answer(protocol: DebateProtocol) -> None:
    for belief in ((-1.0, -2.0), (-2.0, -1.0)):
        first = [protocol.positions(f"row{i}", 0, _named(belief))["A"] for i in range(400)]
        other = [protocol.positions(f"row{i}", 1, _named(belief))["A"] for i in range(400)]
        assert 0.42 < first.count("correct") / 400 < 0.58
        assert 0.42 < sum(a != b for a, b in zip(first, other, strict=True)) / 400 < 0.58


def _named(belief: Scores) -> Position:
    return "correct" if belief[0] > belief[1] else "incorrect"


@pytest.mark.parametrize("protocol", WITH_ORDERS)
def test_both_orders_cancel_a_judge_that_goes_by_sides(protocol: DebateProtocol) -> None:
    orders = [debates(order) for order in protocol.in_orders()]
    assert len(orders) == 2
    for pair in zip(*orders, strict=True):
        believes_a = [float(transcript.position_of("A") == "correct") for transcript in pair]
        assert sum(believes_a) / 2 == 0.5


@pytest.mark.parametrize("protocol", all_of())
def test_no_seed_comes_twice(protocol: DebateProtocol) -> None:
    model = Recording()
    for seed in (0, 1):
        debates(protocol, model, seed=seed)
    assert len(model.prompts) == 2 * len(QUESTIONS) * sum(
        1 if slot.side == "judge" else protocol.best_of for slot in protocol.slots()
    )


@pytest.mark.parametrize("protocol", all_of())
def test_a_debate_is_the_same_whatever_is_debated_beside_it(protocol: DebateProtocol) -> None:
    whole = debates(protocol, per_batch=5)
    assert debates(protocol, questions=QUESTIONS[2:3]) == [whole[2]]


@pytest.mark.parametrize("protocol", all_of())
def test_only_what_is_missing_is_asked_for(protocol: DebateProtocol) -> None:
    model = Recording()
    found = debates(protocol, model, finished=[question.id for question in QUESTIONS[1:]])
    assert [transcript.question_id for transcript in found] == ["q0"]
    texts = [*model.prompts.values(), *model.scored]
    assert all(QUESTIONS[0].text in text for text in texts)


@pytest.mark.parametrize("protocol", all_of())
def test_arguments_are_cut_to_what_a_model_reads_and_the_question_never(
    protocol: DebateProtocol,
) -> None:
    model = Recording(words=300)
    prompts = DebatePrompts(max_tokens=(20,), question_tokens=20, thinking_tokens=20, stop=())

    def short(most: int) -> dict[Side, Speaker]:
        return {
            side: Speaker(
                speaker.model, speaker.digest, speaker.client, lambda text: len(text.split()), most
            )
            for side, speaker in speakers(model).items()
        }

    debates(protocol, model, questions=QUESTIONS[:2], speak=short(260), prompts=prompts)
    asked = list(model.prompts.values())
    assert max(len(text.split()) for text in asked) <= 240
    assert max(len(text.split()) for text in [*asked, *model.scored]) <= 260
    assert all(any(question.text in text for question in QUESTIONS[:2]) for text in asked)
    with pytest.raises(
        ServingInputError, match=r"q0: .* tokens long without any argument, 0 allowed"
    ):
        debates(protocol, questions=QUESTIONS[:1], speak=short(20), prompts=prompts)


@pytest.mark.parametrize("protocol", all_of())
def test_a_transcript_survives_a_row_of_json(protocol: DebateProtocol) -> None:
    for transcript in debates(protocol):
        row = json.loads(json.dumps(transcript.to_row()))
        assert Transcript.from_row(row) == transcript
        spoken = [turn for turn in transcript.turns if turn.side != "judge"]
        assert all(bool(turn.thinking) == protocol.thinking for turn in spoken)
        number = protocol.best_of if protocol.best_of > 1 else 0
        assert all(len(turn.candidates) == number for turn in spoken)
        assert (transcript.chosen in POSITIONS) == protocol.open


@pytest.mark.parametrize("protocol", all_of())
def test_a_live_debate_says_what_the_batch_says(protocol: DebateProtocol) -> None:
    question = QUESTIONS[5]

    async def watch() -> list[Turn]:
        events = live_debate(
            protocol,
            question,
            speakers(Recording()),
            seed=0,
            prompts=DebatePrompts(),
            pick=picks([question])[question.id],
        )
        return [event async for event in events if isinstance(event, Turn)]

    (batch,) = debates(protocol, questions=[question])
    live = asyncio.run(watch())
    assert [(turn.text, turn.seed, turn.position, turn.thinking) for turn in live] == [
        (turn.text, turn.seed, turn.position, turn.thinking) for turn in batch.turns
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_judge_asks_after_every_round_but_the_last(kind: str) -> None:
    plain = with_options(kind, {}, longer=True)
    asking = with_options(kind, {"judge_questions": True}, longer=True)
    num_rounds = len(plain.rounds())
    asked = [slot for slot in asking.slots() if slot.side == "judge"]
    assert [slot.round for slot in asked] == [2 * index + 1 for index in range(num_rounds - 1)]
    judge = Recording()
    (transcript,) = debates(
        asking, questions=QUESTIONS[:1], speak=speakers(Recording(), judge=judge)
    )
    assert len(judge.prompts) == num_rounds - 1
    assert {turn.model for turn in transcript.turns if turn.side == "judge"} == {"judge"}


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_missing_is_named(kind: str) -> None:
    protocol = with_options(kind, {"best_of": 2})
    without_judge = speakers(Recording())
    del without_judge["judge"]
    with pytest.raises(ServingInputError, match=f"nobody speaks for judge, .* {kind!r}"):
        debates(protocol, speak=without_judge)
