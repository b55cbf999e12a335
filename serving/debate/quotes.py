"""Quotes in arguments, checked against the passage they are said to come from (Khan et al. 2024).

A speaker marks a quote as `<quote>...</quote>`. What is in the passage, whatever its case,
punctuation and white space, becomes `<v_quote>...</v_quote>`; any other quote becomes
`<u_quote>...</u_quote>`. A speaker cannot write either mark itself: what it marks so is checked.
"""

import re
import unicodedata

_QUOTE = re.compile(r"<(?:[vu]_)?quote>(.*?)</(?:[vu]_)?quote>", re.DOTALL)
_TAG = re.compile(r"</?(?:[vu]_)?quote>")


def verified(text: str, passage: str) -> str:
    """The argument with each of its quotes marked as verified or not.

    Args:
        text: an argument; a quote that is never closed ends with it, other lone marks are dropped.
        passage: what may be quoted.
    """
    words = f" {_words(passage)} "
    parts, end = [], 0
    text = closed(text)
    for quote in _QUOTE.finditer(text):
        inside = _TAG.sub("", quote[1])
        found = _words(inside)
        mark = "v_quote" if found and f" {found} " in words else "u_quote"
        parts += [_TAG.sub("", text[end : quote.start()]), f"<{mark}>{inside}</{mark}>"]
        end = quote.end()
    return "".join([*parts, _TAG.sub("", text[end:])])


def closed(text: str) -> str:
    """The text with the quote that is open at its end closed."""
    tags = _TAG.findall(text)
    if not tags or tags[-1].startswith("</"):
        return text
    return f"{text}</{tags[-1][1:]}"


def _words(text: str) -> str:
    """The words of a text, one space between them."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
