import asyncio
import json

import pytest

from serving.backends.scripted import ScriptedTransport
from serving.client import BatchingClient
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.sequential import Sequential
from serving.debate.run import TurnStarted, live_debate, run_debates
from serving.debate.types import Question, Side, Speaker, Transcript, Turn
from serving.errors import CompletionFailed, ServingInputError
from serving.messages import Completion

REPLIES = ("red fox", "blue hare", "grey owl")
PROMPTS = DebatePrompts(max_tokens=(5,))
QUESTIONS = [Question(f"q{index}", f"Is {index} even? {index % 3}") for index in range(200)]


def speakers(transport: ScriptedTransport) -> dict[Side, Speaker]:
    speaker = Speaker("scripted", "digest", BatchingClient(transport))
    return {"A": speaker, "B": speaker}


def debate(
    seed: int = 0,
    protocol: Sequential | None = None,
    questions: list[Question] = QUESTIONS,
    finished: tuple[str, ...] = (),
) -> dict[str, Transcript]:
    found: dict[str, Transcript] = {}

    async def run() -> None:
        await run_debates(
            protocol or Sequential(),
            questions,
            speakers(ScriptedTransport(REPLIES)),
            seed=seed,
            prompts=PROMPTS,
            on_transcript=lambda transcript: found.update({transcript.question_id: transcript}),
            finished=finished,
        )

    asyncio.run(run())
    return found


def test_sides_alternate_and_keep_their_position():
    for transcript in debate(questions=QUESTIONS[:20]).values():
        assert [turn.side for turn in transcript.turns] == ["A", "B", "A"]
        first, second, third = (turn.position for turn in transcript.turns)
        assert first == third != second


def test_positions_are_a_fair_coin_over_questions_and_over_seeds():
    by_seed = [debate(seed) for seed in range(2)]
    for found in by_seed:
        share = sum(t.position_of("A") == "correct" for t in found.values()) / len(found)
        assert 0.4 < share < 0.6
    swapped = sum(
        by_seed[0][key].position_of("A") != by_seed[1][key].position_of("A") for key in by_seed[0]
    )
    assert 0.4 < swapped / len(QUESTIONS) < 0.6


def test_same_seed_gives_the_same_debates_whatever_the_batch():
    whole = debate(3)
    alone = debate(3, questions=[QUESTIONS[77]])
    assert alone["q77"] == whole["q77"]


def test_every_turn_of_every_debate_has_its_own_seed():
    turns = [turn for seed in (0, 1) for t in debate(seed).values() for turn in t.turns]
    assert len({turn.seed for turn in turns}) == len(turns)


def test_prompts_contain_the_running_transcript():
    transport = ScriptedTransport(REPLIES)
    found: list[Transcript] = []
    asyncio.run(
        run_debates(
            Sequential(),
            QUESTIONS[:1],
            speakers(transport),
            seed=0,
            prompts=PROMPTS,
            on_transcript=found.append,
        )
    )
    (transcript,) = found
    opening, reply, last = transport.prompts
    assert "red" not in opening
    assert PROMPTS.render(transcript.turns[:1]) in reply
    assert PROMPTS.render(transcript.turns[:2]) in last
    assert all(QUESTIONS[0].text in prompt for prompt in transport.prompts)


def test_finished_debates_are_skipped():
    assert set(debate(questions=QUESTIONS[:5], finished=("q1", "q3"))) == {"q0", "q2", "q4"}


def test_debates_that_are_done_are_handed_over_before_a_later_failure():
    class FailsLate(ScriptedTransport):
        async def send(self, prompts, sampling, seeds, timeout_s) -> list[Completion]:
            if any("Is 4 even" in prompt for prompt in prompts):
                await asyncio.sleep(0.05)
                raise CompletionFailed("no")
            return await super().send(prompts, sampling, seeds, timeout_s)

    found: list[Transcript] = []

    async def run() -> None:
        await run_debates(
            Sequential(),
            QUESTIONS[:5],
            speakers(FailsLate(REPLIES)),
            seed=0,
            prompts=PROMPTS,
            on_transcript=found.append,
            debates_per_batch=2,
        )

    with pytest.raises(CompletionFailed, match="no"):
        asyncio.run(run())
    assert {transcript.question_id for transcript in found} == {"q0", "q1", "q2", "q3"}


def test_repeated_question_id_is_refused():
    with pytest.raises(ServingInputError, match="'q0' occurs more than once"):
        debate(questions=[QUESTIONS[0], QUESTIONS[0]])


def test_more_turns_go_on_alternating():
    transcript = debate(protocol=Sequential(num_turns=5), questions=QUESTIONS[:1])["q0"]
    assert [turn.side for turn in transcript.turns] == ["A", "B", "A", "B", "A"]


def test_transcript_survives_a_row_of_json():
    transcript = debate(questions=QUESTIONS[:1])["q0"]
    row = json.loads(json.dumps(transcript.to_row()))
    assert Transcript.from_row(row) == transcript
    assert transcript.prompts_digest == PROMPTS.digest
    assert transcript.turns[0].model_digest == "digest"


def test_live_debate_says_what_the_batch_says():
    async def watch() -> list[TurnStarted | str | Turn]:
        events = live_debate(
            Sequential(),
            QUESTIONS[0],
            speakers(ScriptedTransport(REPLIES)),
            seed=0,
            prompts=PROMPTS,
        )
        return [event async for event in events]

    events = asyncio.run(watch())
    batch = debate(questions=QUESTIONS[:1])["q0"].turns
    live = [event for event in events if isinstance(event, Turn)]
    assert [turn.text for turn in live] == [turn.text for turn in batch]
    assert [turn.seed for turn in live] == [turn.seed for turn in batch]
    assert isinstance(events[0], TurnStarted)
    assert "".join(event for event in events[1:3] if isinstance(event, str)) == batch[0].text
