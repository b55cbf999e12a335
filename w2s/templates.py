"""What models read when they judge a row, write background knowledge for it, or criticise it.

Placeholders are put in as they are, so a text may hold braces. Templates of a task are its hooks
`judge_prompts`, `knowledge_prompts` and `critique_prompts`; a method's field replaces them.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from w2s.spec import Spec


class Verdict(NamedTuple):
    """What a strict parse found in a judge's text."""

    label: int | None
    """Class it names; None: invalid, or a debater's side (see `side`)."""
    side: str
    """Debater it names, A or B; empty: none."""


UNREADABLE = Verdict(None, "")


class JudgePrompts(Spec):
    """What a judge reads, and how its answer is read."""

    instruction: str = ""
    """Stands before everything, unless empty."""
    closing: str = "Answer:"
    """Stands after row and transcript; the label comes next."""
    labels: tuple[str, ...] = Field(default=(" No", " Yes"), min_length=2)
    """Text of each class's label, with its leading space; their scores are the judgement."""
    verdict_closing: str = (
        "Is the proposed answer correct? Answer with one line, "
        "`Answer: correct` or `Answer: incorrect`.\n"
    )
    """Stands after row and transcript where the judge writes its verdict; empty: there are no words
    for that."""
    verdict: str = r"Answer: (correct|incorrect|A|B)\.?"
    """Regular form of the last line of a written verdict; its one group is `correct`, `incorrect`,
    a label word, or the debater (A or B) who is right."""
    verdict_tokens: int = Field(default=64, ge=1)
    """Longest written verdict, in tokens."""
    separator: str = "\n\n"
    """Between instruction, row, transcript and closing."""

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if len(set(self.labels)) < len(self.labels) or not all(map(str.strip, self.labels)):
            raise ValueError(f"labels must differ and not be empty; found {self.labels!r}")
        try:
            groups = re.compile(self.verdict).groups
        except re.error as error:
            raise ValueError(f"verdict {self.verdict!r} cannot be read: {error}") from error
        if groups != 1:
            raise ValueError(f"verdict must have one group; found {groups} in {self.verdict!r}")
        return self

    def render(self, row: str, transcript: str = "", *, written: bool = False) -> str:
        """The whole text; the label, or the verdict if it is written, comes next.

        Args:
            row: the row, or the row with what is read about it as a task puts them together.
            transcript: what is read about it, where it is not in `row`.
            written: whether the judge writes a verdict.
        """
        closing = self.verdict_closing if written else self.closing
        parts = (self.instruction, row, transcript, closing)
        return self.separator.join(filter(None, parts))

    def parse(self, text: str) -> Verdict:
        """The verdict in a judge's text: its last line that is not empty, and nothing but it."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        found = re.fullmatch(self.verdict, lines[-1]) if lines else None
        if found is None:
            return UNREADABLE
        word = found[1]
        words = [label.strip() for label in self.labels]
        if word in words:
            return Verdict(words.index(word), "")
        if word in ("correct", "incorrect"):
            return Verdict(int(word == "correct"), "")
        return Verdict(None, word) if word in ("A", "B") else UNREADABLE


class WritingPrompts(Spec):
    """How a model is asked for a text about a row, and how the text is shown to its readers."""

    ask: str
    """Prompt, with `{row}` once for the row's text; what comes next is taken."""
    max_tokens: int = Field(ge=1)
    """Longest text, in tokens."""
    exact_length: bool = False
    """Whether each text has exactly `max_tokens` tokens: its end-of-text token is never drawn."""
    stop: tuple[str, ...] = ()
    """Strings that end a text."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Divides the logits; 0 takes the most likely token, so that seeds make no difference."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Probability mass of the tokens that may be drawn."""
    shown: str = "{text}"
    """How a reader sees it, with `{text}` once."""

    @model_validator(mode="after")
    def _placeholders_are_there(self) -> Self:
        for name, template, placeholder in (
            ("ask", self.ask, "{row}"),
            ("shown", self.shown, "{text}"),
        ):
            if template.count(placeholder) != 1:
                raise ValueError(f"{name} must have {placeholder} once; found {template!r}")
        return self

    def render(self, row: str) -> str:
        """The prompt."""
        return self.ask.replace("{row}", row)


class KnowledgePrompts(WritingPrompts):
    """Background knowledge on a question, written without the proposed answer (Sang et al. 2024).

    `ask` is also how demonstrations are put: each with its knowledge after it.
    """

    ask: str = "{row}\nKnowledge:"
    max_tokens: int = 64
    stop: tuple[str, ...] = ("\n\n", "\nQ:", "Question:", "\nKnowledge:")
    shown: str = "Background knowledge: {text}"
    separator: str = "\n\n"
    """Between demonstrations and the question."""
    takes_demos: bool = True
    """Whether demonstrations can be shown; a closed vocabulary may have no form for them."""
    demo_instruction: str = (
        "Write background knowledge that helps to answer this question, in at most 30 words."
    )
    """What the writer of the demonstrations reads before its question; empty: nothing."""
    demo_max_tokens: int = Field(default=32, ge=1)
    """Longest demonstration, in tokens."""
    demo_end: str = "."
    """What a demonstration must end with; others are drawn again. Empty: anything."""

    def with_demos(self, question: str, demos: Sequence[tuple[str, str]] = ()) -> str:
        """The prompt after (question, knowledge) pairs."""
        shown = [f"{self.render(asked)} {knowledge}" for asked, knowledge in demos]
        return self.separator.join([*shown, self.render(question)])

    def for_demo(self, question: str) -> str:
        """The prompt of a demonstration's writer."""
        parts = (self.demo_instruction, self.render(question))
        return self.separator.join(filter(None, parts))


class CritiquePrompts(WritingPrompts):
    """A critique of a proposed answer."""

    ask: str = (
        "Here is a question together with a proposed answer.\n\n{row}\n\n"
        "A careful reviewer says what is right and what is wrong with the proposed answer, "
        "with reasons that can be checked.\n\nReview:"
    )
    max_tokens: int = 192
    stop: tuple[str, ...] = ("\n\n",)
    shown: str = "Review: {text}"
