"""Preferences between two replies (Burns et al. 2023, appendix A.3): which one people chose.

Any table with a chosen and a rejected text a row: whole transcripts that share all but the last
reply (Anthropic's HH, Bai et al. 2022), lists of messages, or two replies beside a column with the
prompt. A row is always the pair: its `options` are the whole texts, in an order drawn by their
content, and the label is the place of the chosen one. A model scores each text, and the difference
of two scores is the logit of the preference; nothing ever reads one reply alone.

Rows whose conversations begin with the same human turn stay in one split. Rows without a shared
context, with an empty reply or with twice the same reply are dropped and counted.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source, digest
from w2s.tasks._splits import SplitNames
from w2s.tasks._text import normal
from w2s.tasks.base import PromptTemplate

HUMAN, ASSISTANT = "Human:", "Assistant:"
ROLES = {"user": HUMAN, "human": HUMAN, "assistant": ASSISTANT, "system": "System:"}
"""How the turns of a list of messages begin in a transcript."""


class Preferences(DatasetTask):
    """Which of two replies people preferred; of HH, `subset` names a part (`harmless-base`)."""

    is_family: ClassVar[bool] = True

    kind: Literal["preferences"] = "preferences"
    path: str = "Anthropic/hh-rlhf"
    prompt: str | None = None
    """Column with what both replies answer; None: the two texts are transcripts that share it."""
    chosen: str = "chosen"
    """Column with the better text."""
    rejected: str = "rejected"
    """Column with the worse text."""
    splits: SplitNames = SplitNames(val=())
    """Names of the source's splits."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return tuple(name for name in (self.prompt, self.chosen, self.rejected) if name is not None)

    @property
    def source_splits(self) -> Mapping[Part, tuple[str, ...]]:
        """Splits of the source that each part is made of."""
        return self.splits.by_part()

    def prompt_template(self) -> PromptTemplate:
        """The prompt's question, answered by A or B."""
        return PromptTemplate(question="{prompt}\nAnswer:", labels=(" A", " B"))

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a pair."""
        prompts = () if self.prompt is None else (self.prompt,)
        for row, _, prompt, texts in source.rows(
            frame, prompts, others=(self.chosen, self.rejected)
        ):
            chosen, rejected = map(
                _transcript, [source] * 2, [row] * 2, (self.chosen, self.rejected), texts
            )
            context = _context(*prompt) if prompt else _shared(chosen, rejected)
            if not context:
                source.drop("rows share no context and were dropped")
                continue
            replies = [text.removeprefix(context).strip() for text in (chosen, rejected)]
            if replies[0] == replies[1]:
                source.drop("rows have the same reply twice and were dropped")
                continue
            if "" in replies:
                source.drop("rows have an empty reply and were dropped")
                continue
            ordered = sorted(replies, key=lambda reply: digest(context, reply))
            first, second = ordered
            opening = context.partition(f"\n\n{ASSISTANT}")[0]
            asked = context.removesuffix(ASSISTANT).rstrip()
            yield Example(
                prompt=f"{asked}\n\nReply A: {first}\n\nReply B: {second}\n\n"
                "Which reply is better, A or B?",
                label=ordered.index(replies[0]),
                group=normal(opening) or opening,
                options=(f"{context} {first}", f"{context} {second}"),
            )


def _transcript(source: Source, row: int, column: str, cell: Any) -> str:
    """A text, or a list of messages as one text, each turn begun by who speaks."""
    if not isinstance(cell, list | tuple | np.ndarray):
        return source.text(row, column, cell)
    turns = []
    for message in cell:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise source.error(
                row,
                column,
                f"found {message!r}; allowed: text, or messages "
                f"{{role = {' | '.join(ROLES)}, content = text}}",
            )
        turns.append(f"{ROLES[message['role']]} {source.text(row, column, message['content'])}")
    return "\n\n".join(turns)


def _context(prompt: str) -> str:
    """The transcript that asks for a reply to a prompt; a transcript stays as it is."""
    return prompt if prompt.endswith(ASSISTANT) else f"{HUMAN} {prompt}\n\n{ASSISTANT}"


def _shared(chosen: str, rejected: str) -> str:
    """What two transcripts share, up to where a reply of the assistant begins; empty if nothing."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    length = next((index for index, (one, other) in pairs if one != other), None)
    before, turn, _ = chosen[:length].rpartition(f"\n\n{ASSISTANT}")
    return before + turn
