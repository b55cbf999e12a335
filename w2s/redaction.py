"""Secrets out of text that is kept or shown: logs, MLflow, manifests, reports, messages.

What is a secret: the value of an environment variable whose name says so (`..._API_KEY`,
`..._TOKEN`, `..._PASSWORD`, ...), user and password of a URL, and what has the form of a well-known
key.
"""

import logging
import os
import re
from collections.abc import Mapping

HIDDEN = "***"
"""Stands where a secret was."""
SHORTEST = 6
"""Characters of an environment variable's value; a shorter one is in too many words."""

_NAME = re.compile(
    r"(^|_)(API_?KEY|ACCESS_KEY(_ID)?|SECRET(_KEY)?|PRIVATE_KEY|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)"
    r"($|_)",
    re.IGNORECASE,
)
_URL = re.compile(r"(?P<scheme>\b[A-Za-z][\w+.-]*://)[^/\s@'\"]+@")
_KEYS = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|AIza[\w-]{30,}|xox[abpr]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
_ASSIGNED = re.compile(
    r"(?P<name>(?:api[_-]?key|access[_-]?key(?:[_-]id)?|secret(?:[_-]?key)?|auth[_-]?token"
    r"|access[_-]?token|\btoken|password|passwd|signature)(?:=[\"']?|[\"']\s*:\s*[\"']))"
    r"[^\s\"'&,;)}\]]{6,}",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<name>\b(?:Bearer|Basic)\s+)[\w.~+/=-]{8,}")


def redacted(text: str) -> str:
    """The text with `***` where a secret was, and `?` where it cannot be written as UTF-8."""
    text = text.encode("utf-8", "replace").decode()
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    text = _URL.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _KEYS.sub(HIDDEN, text)
    text = _BEARER.sub(rf"\g<name>{HIDDEN}", text)
    return _ASSIGNED.sub(rf"\g<name>{HIDDEN}", text)


def all_redacted(values: Mapping[str, str]) -> dict[str, str]:
    """Named texts with `***` where a secret was; quick where none has any."""
    joined = "\n".join(values.values())
    if redacted(joined) == joined:
        return dict(values)
    return {name: redacted(value) for name, value in values.items()}


def has_secret(text: str) -> bool:
    """Whether a text that should hold none has user and password of a URL, or a well-known key."""
    return _URL.match(text) is not None or _KEYS.search(text) is not None


class RedactingHandler(logging.StreamHandler):
    """Log lines and tracebacks without secrets, whatever formatter others give it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return redacted(super().format(record))


def _environment_secrets() -> list[str]:
    """Values of variables that hold secrets, longest first: one may be part of another."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and not value.startswith("/") and _NAME.search(name)
    }
    return sorted(found, key=len, reverse=True)
