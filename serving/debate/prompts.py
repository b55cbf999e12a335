"""What debaters read: `DebatePrompts` turns a question and turns into a prompt or a transcript.

Templates are text with placeholders:

    {question}           the question's text (prompts only)
    {position}           how the speaker's position is called: `correct_name` or `incorrect_name`
    {opponent_position}  how the other position is called
    {side}               A or B
    {transcript}         the turns so far, rendered (prompts only)
    {text}               the argument (`turn_template` only)

With names such as `pro:` and `con:` the same class expresses a closed-vocabulary form:
`first="{question} {position}"`, `reply=later="{question} {transcript} {position}"`,
`turn_template="{position} {text}"`, `joiner=" "`.
"""

import hashlib
import re
import string
from collections.abc import Callable, Sequence
from typing import Self

from pydantic import Field, model_validator

from serving.debate.types import Position, Question, Side, Turn, other
from serving.errors import ServingInputError
from serving.messages import ServingSpec

_TASK = (
    "Here is a question together with a proposed answer.\n\n{question}\n\n"
    "Two debaters, A and B, discuss whether the proposed answer is correct. "
    "One argues that it is, the other that it is not.\n\n"
)
_SPEAKER = "Debater {side} (the answer is {position}):"

FIRST = (
    _TASK
    + "Debater {side} opens with the strongest reasons why the answer is {position}.\n\n"
    + _SPEAKER
)
"""Opening: argue for the assigned side (Lang et al. 2025, table 1, in our words)."""
REPLY = (
    _TASK
    + "{transcript}\n\nDebater {side} lists the flaws in the opponent's argument "
    + "and says why the answer is {position}.\n\n"
    + _SPEAKER
)
"""Second turn: argue the other side and list the flaws of the opening. The running transcript comes
before what is asked of the speaker, so that the prompts of one debate share a long prefix."""
LATER = (
    _TASK
    + "{transcript}\n\nDebater {side} counters the opponent's last argument "
    + "and says again why the answer is {position}.\n\n"
    + _SPEAKER
)
"""Third and later turns: counter the opponent's argument."""

_PROMPT_FIELDS = frozenset({"question", "position", "opponent_position", "side", "transcript"})
_TURN_FIELDS = frozenset({"position", "opponent_position", "side", "text"})

Measure = Callable[[str], int]


def _check(name: str, template: str, allowed: frozenset[str], needed: frozenset[str]) -> None:
    found = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if unknown := found - allowed:
        raise ValueError(
            f"{name}: unknown placeholder {', '.join(sorted(unknown))!r}; "
            f"allowed: {', '.join(sorted(allowed))}"
        )
    if missing := needed - found:
        raise ValueError(f"{name}: placeholder {', '.join(sorted(missing))!r} is missing")


def first_words(text: str, num_words: int) -> str:
    """The text up to and with its `num_words`-th word, its white space as it was."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    if num_words >= len(ends):
        return text
    return text[: ends[num_words - 1]] if num_words > 0 else ""


class DebatePrompts(ServingSpec, frozen=True):
    """Templates of one task's debates; the defaults suit questions with a proposed answer."""

    first: str = FIRST
    """Prompt of the first turn."""
    reply: str = REPLY
    """Prompt of the second turn."""
    later: str = LATER
    """Prompt of the third and later turns."""
    turn_template: str = "Debater {side} (the answer is {position}): {text}"
    """How one turn is shown to the speakers after it and to the reader of the transcript."""
    joiner: str = "\n\n"
    """Between two turns of a transcript."""
    correct_name: str = "correct"
    """How the position `correct` is called in the templates."""
    incorrect_name: str = "incorrect"
    """How the position `incorrect` is called in the templates."""
    max_tokens: tuple[int, ...] = Field(default=(192,), min_length=1)
    """Longest completion of each turn, in tokens; the last entry holds for all turns after it."""
    exact_length: bool = False
    """Whether each turn has exactly `max_tokens` tokens: its end-of-text token is never drawn."""
    stop: tuple[str, ...] = ("\n\n", "\nDebater ")
    """Strings that end a turn."""
    max_prompt_chars: int | None = Field(default=None, ge=1)
    """Longest prompt, in characters; None sets no limit. Arguments are cut, the question never."""

    @model_validator(mode="after")
    def _templates_are_whole(self) -> Self:
        _check("first", self.first, _PROMPT_FIELDS, frozenset({"question"}))
        for name in ("reply", "later"):
            _check(name, getattr(self, name), _PROMPT_FIELDS, frozenset({"question", "transcript"}))
        _check("turn_template", self.turn_template, _TURN_FIELDS, frozenset({"text"}))
        if any(tokens < 1 for tokens in self.max_tokens):
            raise ValueError(f"max_tokens must be 1 or more; found {list(self.max_tokens)}")
        return self

    @property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def tokens_of(self, turn_index: int) -> int:
        """Longest completion of a turn, counted from 0."""
        return self.max_tokens[min(turn_index, len(self.max_tokens) - 1)]

    def prompt(
        self,
        question: Question,
        side: Side,
        position: Position,
        turn_index: int,
        seen: Sequence[Turn],
    ) -> str:
        """What a speaker reads before its turn.

        Args:
            question: what is argued about.
            side: who speaks.
            position: what that side defends.
            turn_index: number of turns made before, which picks the template.
            seen: the turns that the speaker may read, in order.

        Raises:
            ServingInputError: the prompt is longer than `max_prompt_chars` without any argument.
        """
        template = (self.first, self.reply, self.later)[min(turn_index, 2)]

        def build(transcript: str) -> str:
            return template.format(
                question=question.text, transcript=transcript, side=side, **self._names(position)
            )

        return self._fitting(seen, build, self.max_prompt_chars, len, question.id)

    def render(
        self,
        turns: Sequence[Turn],
        question: Question | None = None,
        *,
        max_length: int | None = None,
        measure: Measure = len,
    ) -> str:
        """A debate as its reader gets it: the question if given, then the turns.

        Args:
            turns: the speeches, in order.
            question: goes first, followed by the joiner; None renders the turns alone.
            max_length: longest result in units of `measure`; arguments are cut to fit, all at the
            same number
                of words, the question never.
            measure: length of a text, such as a token count; characters by default.

        Raises:
            ServingInputError: question and markers alone are longer than `max_length`.
        """

        def build(transcript: str) -> str:
            return transcript if question is None else f"{question.text}{self.joiner}{transcript}"

        name = question.id if question is not None else "the transcript"
        return self._fitting(turns, build, max_length, measure, name)

    def _names(self, position: Position) -> dict[str, str]:
        names = {"correct": self.correct_name, "incorrect": self.incorrect_name}
        return {"position": names[position], "opponent_position": names[other(position)]}

    def _transcript(self, turns: Sequence[Turn], max_words: int | None) -> str:
        shown = []
        for turn in turns:
            text = turn.text if max_words is None else first_words(turn.text, max_words)
            shown.append(
                self.turn_template.format(side=turn.side, text=text, **self._names(turn.position))
            )
        return self.joiner.join(shown)

    def _fitting(
        self,
        turns: Sequence[Turn],
        build: Callable[[str], str],
        max_length: int | None,
        measure: Measure,
        name: str,
    ) -> str:
        """The result with the largest number of words an argument that fits; found by bisection."""
        whole = build(self._transcript(turns, None))
        if max_length is None or measure(whole) <= max_length:
            return whole
        low, high = 0, max((len(turn.text.split()) for turn in turns), default=0)
        best = build(self._transcript(turns, 0))
        if measure(best) > max_length:
            raise ServingInputError(
                f"{name}: {measure(best)} long without any argument, {max_length} allowed; "
                "raise the limit or shorten the question"
            )
        while high - low > 1:
            middle = (low + high) // 2
            candidate = build(self._transcript(turns, middle))
            if measure(candidate) <= max_length:
                low, best = middle, candidate
            else:
                high = middle
        return best
