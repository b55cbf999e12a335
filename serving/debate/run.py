"""Running debates: `run_debates` for many questions, `live_debate` for one to be watched.

Questions go in batches. Within a batch the rounds are synchronous (all first turns in one call,
then all second ones), so that a request carries many prompts; batches run beside each other, and
each hands its transcripts over when it is done. A crash loses at most the batches in flight.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from serving.client import Scores, run_all
from serving.debate.prompts import DebatePrompts, Limit, TokenLimit
from serving.debate.protocols.base import DebateProtocol, Slot
from serving.debate.speech import question_sampling, sampling_of, speech_of
from serving.debate.types import Position, Question, Side, Speaker, Transcript, Turn
from serving.errors import ServingInputError
from serving.messages import Completion, Sampling

Speakers = Mapping[Side, Speaker]
"""Models by side; in an open debate that of A is the protagonist's, whichever side it is on."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A speaker of a live debate begins."""

    side: Side
    """Who speaks."""
    position: Position
    """What that side defends."""
    model: str
    """Name of the model that speaks."""


def check_fits(protocol: DebateProtocol, prompts: DebatePrompts) -> None:
    """Refuse a protocol for which a task has no words.

    Raises:
        ServingInputError: the judge asks, speakers think or quote, and the templates cannot say so.
    """
    wanted = {
        "judge_questions": (protocol.judge_questions, "ask"),
        "thinking": (protocol.thinking, "thinking_rule"),
        "verify_quotes": (protocol.verify_quotes, "quotes_rule"),
    }
    for option, (is_on, template) in wanted.items():
        if is_on and not getattr(prompts, template):
            raise ServingInputError(
                f"protocol {protocol.kind!r} has {option} = true, but the debate prompts of the "
                f"task have no `{template}`; leave {option} out, or give the template"
            )


async def run_debates(
    protocol: DebateProtocol,
    questions: Sequence[Question],
    speakers: Speakers,
    *,
    seed: int,
    prompts: DebatePrompts,
    on_transcript: Callable[[Transcript], None],
    picks: Mapping[str, Position] | None = None,
    finished: Collection[str] = (),
    debates_per_batch: int = 64,
    max_batches_in_flight: int = 8,
) -> None:
    """Debate every question that is not finished yet.

    Args:
        protocol: who speaks when.
        questions: what is argued about; ids differ.
        speakers: who speaks for each side; the same speaker may speak for several.
        seed: of these debates; other seeds give other sides and other arguments.
        prompts: templates of the task.
        on_transcript: called once per debate as soon as its batch is done; write it down there.
        picks: what a model picked, by question id, in protocols that argue against it.
        finished: question ids whose transcript exists already; they are skipped.
        debates_per_batch: debates that go through their turns together.
        max_batches_in_flight: batches beside each other.

    Raises:
        ServingInputError: two questions share an id, a side has no speaker, a pick is missing, the
            templates have no words for the protocol, or a prompt cannot fit.
        CompletionFailed: a request failed for good; what was handed over before stays valid.
    """
    _check(protocol, prompts, speakers)
    ids = [question.id for question in questions]
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ServingInputError(f"question id {twice!r} occurs more than once; ids must differ")
    skipped = frozenset(finished)
    waiting = [question for question in questions if question.id not in skipped]
    slots = asyncio.Semaphore(max_batches_in_flight)

    async def batch(part: Sequence[Question]) -> None:
        async with slots:
            started = await _start(protocol, part, speakers, seed, prompts, picks)
            for _, group in groupby(protocol.slots(), key=lambda slot: slot.round):
                await _play(list(group), started)
            for debate in started:
                on_transcript(debate.transcript())

    await run_all(
        batch(waiting[start : start + debates_per_batch])
        for start in range(0, len(waiting), debates_per_batch)
    )


async def live_debate(
    protocol: DebateProtocol,
    question: Question,
    speakers: Speakers,
    *,
    seed: int,
    prompts: DebatePrompts,
    pick: Position = "",
) -> AsyncIterator[TurnStarted | str | Turn]:
    """One debate as it happens: for each turn a `TurnStarted`, pieces of text, and the `Turn`.

    The seeds are those of `run_debates`. A streamed turn does not tell its number of tokens (0) nor
    why it ended. What is chosen among candidates is not streamed: it comes as one piece.

    Args:
        protocol: who speaks when.
        question: what is argued about.
        speakers: who speaks for each side.
        seed: of the debate.
        prompts: templates of the task.
        pick: what a model picked, in protocols that argue against it.
    """
    _check(protocol, prompts, speakers)
    (debate,) = await _start(
        protocol, [question], speakers, seed, prompts, {question.id: pick} if pick else None
    )
    for slot in protocol.slots():
        request = debate.request(slot)
        yield TurnStarted(slot.side, request.position, request.speaker.model)
        if request.num_candidates > 1:
            await _play([slot], [debate])
            yield debate.turns[-1].text
        else:
            pieces = []
            async for piece in request.speaker.client.stream(
                request.prompt, request.sampling, request.seeds[0]
            ):
                pieces.append(piece)
                yield piece
            debate.say(request, [Completion("".join(pieces), 0, "")])
        yield debate.turns[-1]


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of a model for one turn."""

    slot: Slot
    position: Position
    speaker: Speaker
    prompt: str
    sampling: Sampling
    seeds: tuple[int, ...]
    """One for each candidate."""

    @property
    def num_candidates(self) -> int:
        return len(self.seeds)


@dataclass(slots=True)
class _Debate:
    """A debate that goes on."""

    protocol: DebateProtocol
    question: Question
    speakers: Speakers
    seed: int
    prompts: DebatePrompts
    positions: dict[Side, Position]
    pick: Position
    prompts_digest: str
    samplings: dict[int, Sampling]
    """How speeches are drawn, by how many their speaker reads; shared by the debates of a batch."""
    turns: list[Turn] = field(default_factory=list)

    def request(self, slot: Slot) -> _Request:
        """What the speaker of a turn is asked, from the rounds before."""
        protocol, prompts = self.protocol, self.prompts
        seen = [turn for turn in self.turns if turn.round < slot.round]
        position = self.positions.get(slot.side, "")
        speaker = self.speakers[protocol.voice(slot.side, position, self.pick)]
        if slot.side == "judge":
            sampling = question_sampling(protocol, prompts)
            limit = _limit(speaker, sampling.max_tokens)
            prompt = prompts.question_prompt(self.question, seen, limit)
        else:
            visible = protocol.visible(seen, slot.side)
            sampling = self._sampling(sum(turn.side != "judge" for turn in visible))
            prompt = prompts.prompt(
                self.question,
                slot.side,
                position,
                slot.index,
                visible,
                consults=protocol.consults,
                rules=prompts.rules(thinking=protocol.thinking, quotes=protocol.verify_quotes),
                limit=_limit(speaker, sampling.max_tokens),
            )
        number = protocol.best_of if slot.side != "judge" else 1
        seeds = (
            protocol.turn_seed(self.question.id, self.seed, position, slot.round, candidate)
            for candidate in range(number)
        )
        return _Request(slot, position, speaker, prompt, sampling, tuple(seeds))

    def say(
        self, request: _Request, written: Sequence[Completion], scores: Sequence[Scores] = ()
    ) -> None:
        """Add a turn: of several candidates the one whose position the judge believes most."""
        turns = self.candidates(request, written)
        own = 1 if request.position == "incorrect" else 0
        gains = [pair[own] - pair[1 - own] for pair in scores]
        best = turns[gains.index(max(gains))] if gains else turns[0]
        self.turns.append(best)

    def candidates(self, request: _Request, written: Sequence[Completion]) -> list[Turn]:
        """The turns that might be said."""
        spoken = [self._spoken(request, completion.text) for completion in written]
        texts = tuple(text for text, _ in spoken)
        return [
            Turn(
                side=request.slot.side,
                position=request.position,
                text=text,
                num_tokens=completion.num_tokens,
                finish_reason=completion.finish_reason,
                seed=seed,
                model=request.speaker.model,
                model_digest=request.speaker.digest,
                round=request.slot.round,
                thinking=thinking,
                candidates=texts if len(texts) > 1 else (),
            )
            for (text, thinking), completion, seed in zip(
                spoken, written, request.seeds, strict=True
            )
        ]

    def verdict_prompts(self, request: _Request, written: Sequence[Completion]) -> list[str]:
        """What the judge reads of each candidate: the rounds before, and the candidate."""
        seen = [turn for turn in self.turns if turn.round < request.slot.round]
        # A label has no more tokens than bytes.
        room = max(len(label.encode()) for label in self.prompts.labels)
        limit = _limit(self.speakers["judge"], room)
        return [
            self.prompts.verdict_prompt(self.question, [*seen, turn], limit)
            for turn in self.candidates(request, written)
        ]

    def transcript(self) -> Transcript:
        """The whole debate."""
        return Transcript(
            question_id=self.question.id,
            protocol=self.protocol.kind,
            prompts_digest=self.prompts_digest,
            seed=self.seed,
            turns=tuple(self.turns),
            chosen=self.pick if self.protocol.open else "",
        )

    def _sampling(self, num_read: int) -> Sampling:
        if num_read not in self.samplings:
            self.samplings[num_read] = sampling_of(self.protocol, self.prompts, num_read)
        return self.samplings[num_read]

    def _spoken(self, request: _Request, written: str) -> tuple[str, str]:
        if request.slot.side == "judge":
            return written.strip(), ""
        return speech_of(written, self.protocol, self.prompts, self.question)


def _check(protocol: DebateProtocol, prompts: DebatePrompts, speakers: Speakers) -> None:
    check_fits(protocol, prompts)
    needed = {*protocol.sides, *(("judge",) if protocol.needs_judge else ())}
    if missing := sorted(needed - set(speakers)):
        raise ServingInputError(
            f"nobody speaks for {', '.join(missing)}, which has a part in {protocol.kind!r}"
        )


def _limit(speaker: Speaker, num_tokens: int) -> Limit | None:
    """How long a prompt may be, so that the speaker's model has room for what follows."""
    if speaker.count is None or speaker.max_tokens is None:
        return None
    return TokenLimit(max(0, speaker.max_tokens - num_tokens), speaker.count)


async def _start(
    protocol: DebateProtocol,
    questions: Sequence[Question],
    speakers: Speakers,
    seed: int,
    prompts: DebatePrompts,
    picks: Mapping[str, Position] | None,
) -> list[_Debate]:
    """Debates before their first turn, with positions handed out."""
    found: list[Position] = ["" for _ in questions]
    if protocol.open:
        found = await _beliefs(questions, speakers["A"], prompts)
    elif protocol.argues_against:
        missing = [q.id for q in questions if picks is None or not picks.get(q.id)]
        if missing:
            raise ServingInputError(
                f"{protocol.kind!r} argues against what a model picked, and nothing is known of "
                f"{len(missing)} questions; first: {missing[0]}"
            )
        assert picks is not None
        found = [picks[question.id] for question in questions]
    prompts_digest = prompts.digest
    samplings: dict[int, Sampling] = {}
    return [
        _Debate(
            protocol=protocol,
            question=question,
            speakers=speakers,
            seed=seed,
            prompts=prompts,
            positions=protocol.positions(question.id, seed, pick),
            pick=pick,
            prompts_digest=prompts_digest,
            samplings=samplings,
        )
        for question, pick in zip(questions, found, strict=True)
    ]


async def _beliefs(
    questions: Sequence[Question], protagonist: Speaker, prompts: DebatePrompts
) -> list[Position]:
    """What a model holds each proposed answer for; of equal scores the first."""
    asked = [prompts.choice_prompt(question) for question in questions]
    scores = await protagonist.client.score(asked, prompts.labels)
    return ["correct" if yes >= no else "incorrect" for yes, no in scores]


async def _play(slots: Sequence[Slot], debates: Sequence[_Debate]) -> None:
    """One round of all debates: what one client is asked goes in one call."""
    requests = [(debate, debate.request(slot)) for debate in debates for slot in slots]
    by_speaker: dict[tuple[int, Sampling], list[int]] = {}
    for index, (_, request) in enumerate(requests):
        key = (id(request.speaker.client), request.sampling)
        by_speaker.setdefault(key, []).append(index)
    written: dict[int, list[Completion]] = {}

    async def write(indices: list[int]) -> None:
        asked = [requests[index][1] for index in indices]
        completions = iter(
            await asked[0].speaker.client.complete(
                [request.prompt for request in asked for _ in request.seeds],
                asked[0].sampling,
                [seed for request in asked for seed in request.seeds],
            )
        )
        for index, request in zip(indices, asked, strict=True):
            written[index] = [next(completions) for _ in request.seeds]

    await run_all(write(indices) for indices in by_speaker.values())
    chosen = await _preferences([(*pair, written[index]) for index, pair in enumerate(requests)])
    for index, (debate, request) in enumerate(requests):
        debate.say(request, written[index], chosen.get(index, ()))


async def _preferences(
    requests: Sequence[tuple[_Debate, _Request, list[Completion]]],
) -> dict[int, list[Scores]]:
    """The judge's scores of both labels for every candidate, by place of the request."""
    several = {
        index: debate.verdict_prompts(request, written)
        for index, (debate, request, written) in enumerate(requests)
        if request.num_candidates > 1
    }
    if not several:
        return {}
    debate = requests[0][0]
    scores = iter(
        await debate.speakers["judge"].client.score(
            [prompt for prompts in several.values() for prompt in prompts], debate.prompts.labels
        )
    )
    return {index: [next(scores) for _ in prompts] for index, prompts in several.items()}
