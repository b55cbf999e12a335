"""From what a model wrote to what is said: private thinking apart, length and quotes in order."""

import re
from typing import NamedTuple

from serving.debate.prompts import DebatePrompts, cut
from serving.debate.protocols.base import DebateProtocol
from serving.debate.quotes import verified
from serving.debate.types import Question
from serving.messages import Sampling

ARGUMENT_END = "</argument>"
_TAG = re.compile(r"</?(?:thinking|argument)>")


class Speech(NamedTuple):
    """What one completion holds."""

    text: str
    """What all read."""
    thinking: str
    """What nobody else reads."""


def speech_of(
    written: str, protocol: DebateProtocol, prompts: DebatePrompts, question: Question
) -> Speech:
    """What a debater says in a completion.

    Args:
        written: the completion.
        protocol: whether there is private thinking, and whether quotes are checked.
        prompts: the limit in words.
        question: the passage that quotes are checked against.
    """
    text, thinking = split_thinking(written) if protocol.thinking else (written.strip(), "")
    if prompts.max_words is not None:
        text = cut(text, prompts.max_words)
    if protocol.verify_quotes:
        text = verified(text, question.passage)
    return Speech(text, thinking)


def split_thinking(written: str) -> tuple[str, str]:
    """The argument, and the thinking before it.

    The argument is what stands between `<argument>` and its end, or, where that mark is lacking,
    after the end of the thinking. Who never ends thinking has said nothing: it is not shown.
    """
    thinking, mark, text = written.partition("<argument>")
    if not mark and "<thinking>" in written:
        thinking, mark, text = written.partition("</thinking>")
    elif not mark:
        thinking, text = "", written
    text = text.partition(ARGUMENT_END)[0]
    return _TAG.sub("", text).strip(), _TAG.sub("", thinking).strip()


def sampling_of(protocol: DebateProtocol, prompts: DebatePrompts, num_read: int) -> Sampling:
    """How the turn of a debater is drawn that reads so many speeches."""
    tokens = prompts.tokens_of(num_read)
    if protocol.thinking:
        tokens += prompts.thinking_tokens
    return Sampling(
        temperature=protocol.temperature,
        top_p=protocol.top_p,
        max_tokens=tokens,
        min_tokens=tokens if prompts.exact_length else 0,
        stop=(ARGUMENT_END,) if protocol.thinking else prompts.stop,
    )


def question_sampling(protocol: DebateProtocol, prompts: DebatePrompts) -> Sampling:
    """How a judge's question is drawn."""
    return Sampling(
        temperature=protocol.temperature,
        top_p=protocol.top_p,
        max_tokens=prompts.question_tokens,
        stop=("\n", *prompts.stop),
    )
