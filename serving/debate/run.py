"""Running debates: `run_debates` for many questions, `live_debate` for one to be watched.

Questions go in batches. Within a batch the turns are synchronous (all first turns in one call, then
all second ones), so that a request carries many prompts; batches run beside each other, and each
hands its transcripts over when it is done. A crash loses at most the batches in flight.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from serving.client import run_all
from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.types import Position, Question, Side, Speaker, Transcript, Turn
from serving.errors import ServingInputError
from serving.messages import Completion

Speakers = Mapping[Side, Speaker]


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A speaker of a live debate begins."""

    side: Side
    """Who speaks."""
    position: Position
    """What that side defends."""
    model: str
    """Name of the model that speaks."""


def _turn(
    side: Side, position: Position, speaker: Speaker, seed: int, completion: Completion
) -> Turn:
    return Turn(
        side=side,
        position=position,
        text=completion.text.strip(),
        num_tokens=completion.num_tokens,
        finish_reason=completion.finish_reason,
        seed=seed,
        model=speaker.model,
        model_digest=speaker.digest,
    )


def _check_speakers(protocol: DebateProtocol, speakers: Speakers) -> None:
    if missing := sorted(set(protocol.order()) - set(speakers)):
        raise ServingInputError(
            f"nobody speaks for side {', '.join(missing)}, which has turns in {protocol.kind!r}"
        )


async def run_debates(
    protocol: DebateProtocol,
    questions: Sequence[Question],
    speakers: Speakers,
    *,
    seed: int,
    prompts: DebatePrompts,
    on_transcript: Callable[[Transcript], None],
    finished: Collection[str] = (),
    debates_per_batch: int = 64,
    max_batches_in_flight: int = 8,
) -> None:
    """Debate every question that is not finished yet.

    Args:
        protocol: who speaks when.
        questions: what is argued about; ids differ.
        speakers: who speaks for each side; the same speaker may speak for both.
        seed: of these debates; other seeds give other sides and other arguments.
        prompts: templates of the task.
        on_transcript: called once per debate as soon as its batch is done; write it down there.
        finished: question ids whose transcript exists already; they are skipped.
        debates_per_batch: debates that go through their turns together.
        max_batches_in_flight: batches beside each other.

    Raises:
        ServingInputError: two questions share an id, a side has no speaker, or a prompt cannot fit.
        CompletionFailed: a request failed for good; what was handed over before stays valid.
    """
    _check_speakers(protocol, speakers)
    ids = [question.id for question in questions]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ServingInputError(f"question id {twice!r} occurs more than once; ids must differ")
    skipped = frozenset(finished)
    open_questions = [question for question in questions if question.id not in skipped]
    slots = asyncio.Semaphore(max_batches_in_flight)

    async def batch(part: Sequence[Question]) -> None:
        async with slots:
            for transcript in await _debate_batch(protocol, part, speakers, seed, prompts):
                on_transcript(transcript)

    await run_all(
        batch(open_questions[start : start + debates_per_batch])
        for start in range(0, len(open_questions), debates_per_batch)
    )


async def _debate_batch(
    protocol: DebateProtocol,
    questions: Sequence[Question],
    speakers: Speakers,
    seed: int,
    prompts: DebatePrompts,
) -> list[Transcript]:
    positions = [protocol.positions(question.id, seed) for question in questions]
    turns: list[list[Turn]] = [[] for _ in questions]
    for index, side in enumerate(protocol.order()):
        speaker = speakers[side]
        texts = [
            prompts.prompt(question, side, position[side], index, protocol.visible(made))
            for question, position, made in zip(questions, positions, turns, strict=True)
        ]
        seeds = [
            protocol.turn_seed(question.id, seed, position[side], index)
            for question, position in zip(questions, positions, strict=True)
        ]
        sampling = protocol.sampling(prompts.tokens_of(index), prompts.exact_length, prompts.stop)
        completions = await speaker.client.complete(texts, sampling, seeds)
        for made, position, turn_seed, completion in zip(
            turns, positions, seeds, completions, strict=True
        ):
            made.append(_turn(side, position[side], speaker, turn_seed, completion))
    return [
        Transcript(
            question_id=question.id,
            protocol=protocol.kind,
            prompts_digest=prompts.digest,
            seed=seed,
            turns=tuple(made),
        )
        for question, made in zip(questions, turns, strict=True)
    ]


async def live_debate(
    protocol: DebateProtocol,
    question: Question,
    speakers: Speakers,
    *,
    seed: int,
    prompts: DebatePrompts,
) -> AsyncIterator[TurnStarted | str | Turn]:
    """One debate as it happens: for each turn a `TurnStarted`, pieces of text, and the `Turn`.

    The seeds are those of `run_debates`. A streamed turn does not tell its number of tokens (0) nor
    why it ended.
    """
    _check_speakers(protocol, speakers)
    positions = protocol.positions(question.id, seed)
    turns: list[Turn] = []
    for index, side in enumerate(protocol.order()):
        speaker, position = speakers[side], positions[side]
        yield TurnStarted(side, position, speaker.model)
        text = prompts.prompt(question, side, position, index, protocol.visible(turns))
        turn_seed = protocol.turn_seed(question.id, seed, position, index)
        sampling = protocol.sampling(prompts.tokens_of(index), prompts.exact_length, prompts.stop)
        pieces = []
        async for piece in speaker.client.stream(text, sampling, turn_seed):
            pieces.append(piece)
            yield piece
        completion = Completion("".join(pieces), 0, "")
        turns.append(_turn(side, position, speaker, turn_seed, completion))
        yield turns[-1]
