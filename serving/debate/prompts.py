"""What the speakers of a debate read: `DebatePrompts` makes prompts and transcripts of turns.

Templates are text with placeholders:

    {task}               the first line: what kind of question it is
    {question}           the question's text
    {correct}            how the position `correct` is called (`correct_name`)
    {incorrect}          how the position `incorrect` is called
    {position}           how the speaker's position is called
    {opponent_position}  how the other position is called
    {side}               A or B
    {transcript}         the turns that may be read, rendered
    {rules}              what is said about private thinking, quotes and length, if anything
    {text}               the argument or the judge's question (`turn_template`, `ask_template`)

With names such as `pro:` and `con:` the same class expresses a closed-vocabulary form:
`first="{question} {position}"`, `reply=later="{question} {transcript} {position}"`,
`turn_template="{position} {text}"`, `joiner=" "`.
"""

import hashlib
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from serving.debate.quotes import closed
from serving.debate.types import Position, Question, Side, Turn, other
from serving.errors import ServingInputError
from serving.messages import ServingSpec

_TASK = "{task}\n\n{question}\n\n"
_DEBATE = (
    _TASK + "Two debaters, A and B, disagree about the answer: "
    "one argues that it is {correct}, the other that it is {incorrect}.\n\n"
)
_CONSULTANCY = _TASK + "Debater {side} argues that the answer is {position}.\n\n"
_SPEAKER = "Debater {side} (the answer is {position}):"

TASK = "Here is a question together with a proposed answer."
"""What a question is, unless a task says it better."""
FIRST = (
    _DEBATE
    + "Debater {side} opens with the strongest reasons why the answer is {position}.{rules}\n\n"
    + _SPEAKER
)
"""Opening: argue for the assigned side (Lang et al. 2025, table 1, in our words)."""
REPLY = (
    _DEBATE
    + "{transcript}\n\nDebater {side} lists the flaws in the opponent's argument "
    + "and says why the answer is {position}.{rules}\n\n"
    + _SPEAKER
)
"""Second round: argue the other side and list the flaws of the opening. The running transcript
comes before what is asked of the speaker: prompts of one debate share a long prefix."""
LATER = (
    _DEBATE
    + "{transcript}\n\nDebater {side} counters the opponent's last argument "
    + "and says again why the answer is {position}.{rules}\n\n"
    + _SPEAKER
)
"""Third and later rounds: counter the opponent's argument."""
CONSULT = (
    _CONSULTANCY
    + "Debater {side} gives the strongest reasons why the answer is {position}.{rules}\n\n"
    + _SPEAKER
)
"""First speech of a speaker without an opponent."""
CONSULT_AGAIN = (
    _CONSULTANCY
    + "{transcript}\n\nDebater {side} goes on: it answers what the judge asked, if anything, "
    + "and adds reasons why the answer is {position}.{rules}\n\n"
    + _SPEAKER
)
"""Its later speeches."""
ASK = (
    _TASK
    + "A judge has to find out whether the answer is {correct} or {incorrect} and reads this:\n\n"
    + "{transcript}\n\nThe judge asks one short question, whose answer would settle it.\n\nJudge:"
)
"""A question of the judge (Khan et al. 2024, interactive protocols)."""
CHOOSE = _TASK + "Is the answer {correct} or {incorrect}?\n\nThe answer is"
"""How a protagonist says what it believes, before it argues (Kenton et al. 2024, open debate)."""
VERDICT = (
    _TASK + "{transcript}\n\nA judge has read this and decides whether the answer is {correct} or "
    "{incorrect}.\n\nThe answer is"
)
"""How a judge says whom it believes, which tells the best of several candidates."""
THINKING_RULE = (
    " First think in private between <thinking> and </thinking>, which nobody else reads; "
    "then write what all read between <argument> and </argument>."
)
"""Said where speakers think in private."""
QUOTES_RULE = (
    " Words of the passage are quoted exactly, between <quote> and </quote>; "
    "a quote that is not in the passage will be marked as unverified."
)
"""Said where quotes are checked."""
WORDS_RULE = " The argument has at most {max_words} words."
"""Said where arguments have a limit in words."""

_JUDGE_FIELDS = frozenset(("task", "question", "correct", "incorrect", "transcript"))
_SPEECH_FIELDS = _JUDGE_FIELDS | {"position", "opponent_position", "side", "rules"}
_TURN_FIELDS = frozenset(("position", "opponent_position", "side", "text"))
_ALLOWED_AND_NEEDED: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "first": (_SPEECH_FIELDS, frozenset({"question"})),
    "reply": (_SPEECH_FIELDS, frozenset({"question", "transcript"})),
    "later": (_SPEECH_FIELDS, frozenset({"question", "transcript"})),
    "consult": (_SPEECH_FIELDS, frozenset({"question"})),
    "consult_again": (_SPEECH_FIELDS, frozenset({"question", "transcript"})),
    "ask": (_JUDGE_FIELDS, frozenset({"question", "transcript"})),
    "choose": (_JUDGE_FIELDS - {"transcript"}, frozenset({"question"})),
    "verdict": (_JUDGE_FIELDS, frozenset({"question", "transcript"})),
    "thinking_rule": (frozenset(), frozenset()),
    "quotes_rule": (frozenset(), frozenset()),
    "words_rule": (frozenset({"max_words"}), frozenset()),
    "turn_template": (_TURN_FIELDS, frozenset({"text"})),
    "ask_template": (frozenset({"text"}), frozenset({"text"})),
}
_MAY_BE_EMPTY = ("ask", "thinking_rule", "quotes_rule", "words_rule")

Measure = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a text may be."""

    most: int
    """Largest length that is allowed."""
    measure: Measure = len
    """Length of a text; characters by default."""
    unit: str = "characters"
    """What it counts, for messages."""

    def holds(self, text: str) -> bool:
        """Whether a text is short enough."""
        return self.measure(text) <= self.most


@dataclass(frozen=True, slots=True)
class TokenLimit(Limit):
    """A limit in a model's tokens, which are counted only where they could be too many."""

    unit: str = "tokens"
    """What it counts, for messages."""

    def holds(self, text: str) -> bool:
        """Whether a text is short enough; no text has more tokens than bytes and a few."""
        return len(text.encode()) + 8 <= self.most or self.measure(text) <= self.most


def _check(name: str, template: str, allowed: frozenset[str], needed: frozenset[str]) -> None:
    found = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if unknown := found - allowed:
        raise ValueError(
            f"{name}: unknown placeholder {', '.join(sorted(unknown))!r}; "
            f"allowed: {', '.join(sorted(allowed)) or 'none'}"
        )
    if missing := needed - found:
        raise ValueError(f"{name}: placeholder {', '.join(sorted(missing))!r} is missing")


def first_words(text: str, num_words: int) -> str:
    """The text up to and with its `num_words`-th word, its white space as it was."""
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    if num_words >= len(ends):
        return text
    return text[: ends[num_words - 1]] if num_words > 0 else ""


def cut(text: str, num_words: int) -> str:
    """The first words of an argument, with a quote that is cut closed."""
    return closed(first_words(text, num_words))


class DebatePrompts(ServingSpec, frozen=True):
    """Templates of one task's debates; the defaults suit questions with a proposed answer."""

    task: str = TASK
    """First line of every prompt: what kind of question it is."""
    first: str = FIRST
    """Prompt of a debater in the first round."""
    reply: str = REPLY
    """Prompt of a debater in the second round."""
    later: str = LATER
    """Prompt of a debater in the third and later rounds."""
    consult: str = CONSULT
    """Prompt of a speaker without opponent, for its first speech."""
    consult_again: str = CONSULT_AGAIN
    """Prompt of a speaker without opponent, for its later speeches."""
    ask: str = ASK
    """Prompt of a judge that asks; empty: there are no words for its questions."""
    choose: str = CHOOSE
    """Prompt after which the label of what a model believes comes next."""
    verdict: str = VERDICT
    """Prompt after which the label of what a judge believes comes next."""
    thinking_rule: str = THINKING_RULE
    """Put for `{rules}` where speakers think in private; empty: there is no private thinking."""
    quotes_rule: str = QUOTES_RULE
    """Put for `{rules}` where quotes are checked; empty: there are no quotes."""
    words_rule: str = WORDS_RULE
    """Put for `{rules}` where there is a limit `max_words`."""
    turn_template: str = "Debater {side} (the answer is {position}): {text}"
    """How one turn is shown to the speakers after it and to the reader of the transcript."""
    ask_template: str = "Judge: {text}"
    """How a question of the judge is shown."""
    joiner: str = "\n\n"
    """Between two turns of a transcript."""
    correct_name: str = "correct"
    """How the position `correct` is called in the templates."""
    incorrect_name: str = "incorrect"
    """How the position `incorrect` is called in the templates."""
    correct_label: str = " correct"
    """What comes after `choose` and `verdict` for the position `correct`, with its space."""
    incorrect_label: str = " incorrect"
    """What comes after `choose` and `verdict` for the position `incorrect`, with its space."""
    max_tokens: tuple[int, ...] = Field(default=(192,), min_length=1)
    """Longest argument, in tokens, by how many speeches its speaker reads: none, one, two, ...; the
    last entry holds for all larger numbers."""
    thinking_tokens: int = Field(default=256, ge=1)
    """Tokens that private thinking adds to a completion, at most."""
    question_tokens: int = Field(default=48, ge=1)
    """Longest question of a judge, in tokens."""
    exact_length: bool = False
    """Whether each turn has exactly `max_tokens` tokens: its end-of-text token is never drawn."""
    stop: tuple[str, ...] = ("\n\n", "\nDebater ", "\nJudge:")
    """Strings that end a turn; with private thinking, only the end of the argument does."""
    max_words: int | None = Field(default=None, ge=1)
    """Longest argument, in words: speakers are told, and what is longer is cut; None: no limit."""
    max_prompt_chars: int | None = Field(default=None, ge=1)
    """Longest prompt, in characters; None sets no limit. Arguments are cut, the question never."""

    @model_validator(mode="after")
    def _templates_are_whole(self) -> Self:
        for name, (allowed, needed) in _ALLOWED_AND_NEEDED.items():
            template = getattr(self, name)
            if template or name not in _MAY_BE_EMPTY:
                _check(name, template, allowed, needed)
        if any(tokens < 1 for tokens in self.max_tokens):
            raise ValueError(f"max_tokens must be 1 or more; found {list(self.max_tokens)}")
        if self.correct_label == self.incorrect_label:
            raise ValueError(f"labels must differ; both are {self.correct_label!r}")
        return self

    @property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 over all fields."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def labels(self) -> tuple[str, str]:
        """What a model says for `correct` and for `incorrect`, in this order."""
        return self.correct_label, self.incorrect_label

    def tokens_of(self, num_read: int) -> int:
        """Longest argument of a speaker that reads so many speeches."""
        return self.max_tokens[min(num_read, len(self.max_tokens) - 1)]

    def rules(self, *, thinking: bool, quotes: bool) -> str:
        """What speakers are told beside their task."""
        words = "" if self.max_words is None else self.words_rule.format(max_words=self.max_words)
        return (
            (self.thinking_rule if thinking else "") + (self.quotes_rule if quotes else "") + words
        )

    def prompt(
        self,
        question: Question,
        side: Side,
        position: Position,
        index: int,
        seen: Sequence[Turn],
        *,
        consults: bool = False,
        rules: str = "",
        limit: Limit | None = None,
    ) -> str:
        """What a speaker reads before its turn.

        Args:
            question: what is argued about.
            side: who speaks.
            position: what that side defends.
            index: rounds of speeches made before, which picks the template.
            seen: the turns that the speaker may read, in order.
            consults: whether the speaker has no opponent.
            rules: what it is told beside its task.
            limit: how much its model reads; arguments are cut to fit, the question never.

        Raises:
            ServingInputError: the prompt is too long without any argument.
        """
        if consults:
            template = self.consult if index == 0 else self.consult_again
        else:
            template = (self.first, self.reply, self.later)[min(index, 2)]

        def build(transcript: str) -> str:
            return template.format(
                question=question.text,
                transcript=transcript,
                side=side,
                rules=rules,
                **self._names(position),
                **self._heading(),
            )

        return self._fitting(seen, build, self._limits(limit), question.id)

    def question_prompt(
        self, question: Question, seen: Sequence[Turn], limit: Limit | None = None
    ) -> str:
        """What the judge reads before it asks; see `prompt`."""
        return self._judge(self.ask, question, seen, limit)

    def verdict_prompt(
        self, question: Question, seen: Sequence[Turn], limit: Limit | None = None
    ) -> str:
        """What the judge reads before one of `labels` comes next; see `prompt`."""
        return self._judge(self.verdict, question, seen, limit)

    def choice_prompt(self, question: Question) -> str:
        """What a protagonist reads before one of `labels` comes next."""
        return self.choose.format(question=question.text, **self._heading())

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
            turns: the turns, in order.
            question: goes first, followed by the joiner; None renders the turns alone.
            max_length: longest result in units of `measure`; arguments are cut to fit, all at the
                same number of words, the question never.
            measure: length of a text, such as a token count; characters by default.

        Raises:
            ServingInputError: question and markers alone are longer than `max_length`.
        """

        def build(transcript: str) -> str:
            return transcript if question is None else f"{question.text}{self.joiner}{transcript}"

        name = question.id if question is not None else "the transcript"
        limits = [] if max_length is None else [Limit(max_length, measure, "units")]
        return self._fitting(turns, build, limits, name)

    def _judge(
        self, template: str, question: Question, seen: Sequence[Turn], limit: Limit | None
    ) -> str:
        def build(transcript: str) -> str:
            text = question.judge_text or question.text
            return template.format(question=text, transcript=transcript, **self._heading())

        return self._fitting(seen, build, self._limits(limit), question.id)

    def _heading(self) -> dict[str, str]:
        names = {"correct": self.correct_name, "incorrect": self.incorrect_name}
        return {"task": self.task, **names}

    def _names(self, position: Position) -> dict[str, str]:
        names = {"correct": self.correct_name, "incorrect": self.incorrect_name, "": ""}
        return {"position": names[position], "opponent_position": names[other(position)]}

    def _limits(self, limit: Limit | None) -> list[Limit]:
        own = [] if self.max_prompt_chars is None else [Limit(self.max_prompt_chars)]
        return [*own, *([] if limit is None else [limit])]

    def _shown(self, turn: Turn, max_words: int | None) -> str:
        text = turn.text if max_words is None else cut(turn.text, max_words)
        if turn.side == "judge":
            return self.ask_template.format(text=text)
        return self.turn_template.format(side=turn.side, text=text, **self._names(turn.position))

    def _transcript(self, turns: Sequence[Turn], max_words: int | None) -> str:
        return self.joiner.join(self._shown(turn, max_words) for turn in turns)

    def _fitting(
        self,
        turns: Sequence[Turn],
        build: Callable[[str], str],
        limits: Sequence[Limit],
        name: str,
    ) -> str:
        """The result with the largest number of words an argument that fits; found by bisection."""

        def fits(text: str) -> bool:
            return all(limit.holds(text) for limit in limits)

        whole = build(self._transcript(turns, None))
        if fits(whole):
            return whole
        low, high = 0, max((len(turn.text.split()) for turn in turns), default=0)
        best = build(self._transcript(turns, 0))
        for limit in limits:
            if not limit.holds(best):
                raise ServingInputError(
                    f"{name}: {limit.measure(best)} {limit.unit} long without any argument, "
                    f"{limit.most} allowed; raise the limit, take a model that reads more, or "
                    "shorten the question"
                )
        while high - low > 1:
            middle = (low + high) // 2
            candidate = build(self._transcript(turns, middle))
            if fits(candidate):
                low, best = middle, candidate
            else:
                high = middle
        return best
