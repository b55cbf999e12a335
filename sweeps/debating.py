"""One debate to be watched: turns as they are written, and at the end what a judge makes of it.

`Scene` is who debates what under which protocol; `watch` plays it on a terminal and gives back what
was said as a `TranscriptExample`, for the page of transcripts. The judge is asked twice, without
the debate and with it, by the scores of its label words, as in `w2s.stages.judge`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from serving.debate.run import TurnStarted, live_debate
from serving.debate.speech import split_thinking
from serving.debate.types import Position, Question, Side, Speaker, Turn
from sweeps.results import Speech, TranscriptExample
from w2s.stages.debate import Debate
from w2s.templates import JudgePrompts

STYLES = {"correct": "green", "incorrect": "red", "": "magenta"}
"""Colour of a speaker, by what it defends; the judge defends nothing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to be debated."""

    id: str
    """Id of the row; sides and seeds follow from it."""
    prompt: str
    """The question with the proposed answer."""
    label: int | None
    """1: the answer is correct, 0: it is not; None: nobody knows."""
    where: str
    """Where it comes from, in words."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A debate without its question."""

    stage: Debate
    """Task, templates, protocol and seed."""
    task: str
    """Label of the task."""
    speakers: dict[Side, Speaker]
    """Who speaks for each side, and who asks or chooses."""
    judge: Speaker | None
    """Who decides in the end; None: nobody."""
    judge_prompts: JudgePrompts
    """What the judge reads around the debate."""
    names: dict[str, str]
    """Names of rungs and speakers by the keys of their models."""
    shows_thinking: bool = False
    """Whether private thinking is shown."""

    def name_of(self, digest: str, model: str) -> str:
        """What a model is called in the sweep."""
        return self.names.get(digest, model)


async def watch(scene: Scene, asked: Asked, console: Console) -> TranscriptExample:
    """Play a debate on the terminal.

    Raises:
        ServingInputError: a prompt cannot fit, or the templates have no words for the protocol.
        CompletionFailed: a request failed for good.
    """
    stage = scene.stage
    question = stage.question(asked.id, asked.prompt)
    console.print(asked.prompt, style="bold", markup=False, highlight=False)
    console.print(f"({asked.where}; {stage.protocol.kind}, seed {stage.seed})", style="dim")
    alone = await _belief(scene, question, ()) if scene.judge else None
    turns: list[Turn] = []
    voice = None
    async for event in live_debate(
        stage.protocol,
        question,
        scene.speakers,
        seed=stage.seed,
        prompts=stage.templates,
        pick=_pick(alone) if stage.protocol.argues_against else "",
    ):
        if isinstance(event, TurnStarted):
            voice = _Voice(scene, event, console)
        elif isinstance(event, str):
            assert voice is not None
            voice.say(event)
        else:
            assert voice is not None
            voice.end(event)
            turns.append(event)
    belief = await _belief(scene, question, turns) if scene.judge else None
    _conclude(scene, asked, alone, belief, console)
    return _example(scene, asked, turns, alone, belief)


class _Voice:
    """One turn on the terminal: the argument, and the thinking before it if that is shown."""

    def __init__(self, scene: Scene, started: TurnStarted, console: Console) -> None:
        self._console = console
        self._shows_thinking = scene.shows_thinking
        self._thinks = scene.stage.protocol.thinking and started.side != "judge"
        self._written = self._thought = self._said = ""
        speaker = next(s for s in scene.speakers.values() if s.model == started.model)
        name = scene.name_of(speaker.digest, started.model)
        who = "judge asks" if started.side == "judge" else f"{started.side}, {started.position}"
        self._console.print(f"\n{who}", style=f"bold {STYLES[started.position]}", end="")
        self._console.print(f" ({name}): ", style="dim", end="", markup=False, highlight=False)

    def say(self, piece: str) -> None:
        """More of what the model writes."""
        if not self._thinks:
            self._put(piece if self._written else piece.lstrip())
            self._written += piece
            return
        self._written += piece
        # A mark that is not whole yet is neither thought nor said.
        argument, thought = split_thinking(re.sub(r"<[^<>]*$", "", self._written))
        if not self._thought and thought:
            self._put("thinks: " if self._shows_thinking else "(thinks) ", "dim italic")
        if self._shows_thinking and thought.startswith(self._thought):
            self._put(thought[len(self._thought) :], "dim italic")
        self._thought = thought
        if argument and not self._said and self._shows_thinking and thought:
            self._put("\n")
        if argument.startswith(self._said):
            self._put(argument[len(self._said) :])
            self._said = argument

    def end(self, turn: Turn) -> None:
        """The turn as it counts."""
        notes = []
        if len(turn.candidates) > 1:
            notes.append(f"best of {len(turn.candidates)}")
        verified, unverified = (turn.text.count(f"<{mark}_quote>") for mark in "vu")
        if verified or unverified:
            notes.append(f"quotes: {verified} verified, {unverified} not")
        if notes:
            self._put(f" ({'; '.join(notes)})", "dim")
        self._console.print()

    def _put(self, text: str, style: str | None = None) -> None:
        self._console.print(text, end="", style=style, markup=False, highlight=False)


def _pick(alone: float | None) -> Position:
    assert alone is not None, "who argues against a pick needs a judge that picks"
    return "correct" if alone > 0.5 else "incorrect"


async def _belief(scene: Scene, question: Question, turns: Sequence[Turn]) -> float:
    """The judge's probability that the proposed answer is correct."""
    judge, templates = scene.judge, scene.judge_prompts
    assert judge is not None
    text = question.judge_text or question.text
    task, turn_templates = scene.stage.prompts.task, scene.stage.templates
    longest = max(templates.labels, key=len)
    count, most = judge.count, judge.max_tokens

    def render(transcript: str) -> str:
        return templates.render(task.with_transcript(text, transcript) if transcript else text)

    transcript = turn_templates.render(turns)
    if count is not None and most is not None:
        transcript = turn_templates.render(
            turns, max_length=most, measure=lambda read: count(render(read) + longest)
        )
    (scores,) = await judge.client.score([render(transcript)], templates.labels)
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return weights[1] / sum(weights)


def _conclude(
    scene: Scene, asked: Asked, alone: float | None, belief: float | None, console: Console
) -> None:
    console.print()
    if scene.judge is not None and alone is not None and belief is not None:
        name = scene.name_of(scene.judge.digest, scene.judge.model)
        for when, value in (("alone", alone), ("after the debate", belief)):
            says = "undecided" if value == 0.5 else "correct" if value > 0.5 else "incorrect"
            line = f"judge {name} {when}: {says}, {100 * value:.0f} % that the answer is correct"
            console.print(line, end="", markup=False, highlight=False)
            if asked.label is not None and value != 0.5:
                right = (value > 0.5) == (asked.label == 1)
                console.print(
                    " (right)" if right else " (wrong)", style="green" if right else "red", end=""
                )
            console.print()
    if asked.label is not None:
        truth = "correct" if asked.label == 1 else "incorrect"
        console.print(f"the proposed answer is [bold]{truth}[/bold]")


def _example(
    scene: Scene, asked: Asked, turns: Sequence[Turn], alone: float | None, belief: float | None
) -> TranscriptExample:
    debater = scene.speakers["A"]
    judge = scene.judge
    return TranscriptExample(
        row_id=asked.id,
        task=scene.task,
        weak=scene.name_of(judge.digest, judge.model) if judge else "nobody",
        strong=scene.name_of(debater.digest, debater.model),
        method=scene.stage.protocol.kind,
        trial_id="",
        seed=scene.stage.seed,
        question=asked.prompt,
        label=asked.label,
        prob_with=belief,
        prob_without=alone,
        turns=tuple(
            Speech(
                side=turn.side,
                position=turn.position,
                text=turn.text,
                model=scene.name_of(turn.model_digest, turn.model),
                round=turn.round,
                thinking=turn.thinking,
                candidates=turn.candidates,
            )
            for turn in turns
        ),
    )
