"""`Shared`: equal stages of a process are one object, so a plan builds and hashes each once.

A method composes its stages anew for every point, and most of them are the same as another point's.
A stage class that is called with fields it was called with before gives the stage that it made
then, as long as somebody holds it. Stages are frozen, so nobody can tell, except by the time it
takes.
"""

import weakref
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic._internal._model_construction import ModelMetaclass

from w2s.spec import ByIdentity

_MADE: "weakref.WeakValueDictionary[tuple[Any, ...], Any]" = weakref.WeakValueDictionary()
"""Stages by class, version and the tokens of the given fields."""
_TOKENS: ByIdentity[object] = ByIdentity()
"""Token of each stage and spec that was a field; equal specs have one, every stage its own."""
_EQUAL: "weakref.WeakKeyDictionary[Any, object]" = weakref.WeakKeyDictionary()
"""Tokens of specs by value."""
_TEXT = frozenset({str})


if TYPE_CHECKING:
    Shared = ModelMetaclass  # Calls are checked against the fields, as pydantic has it.
else:

    class Shared(ModelMetaclass):
        """Metaclass of stages."""

        def __call__(cls, /, **fields: Any) -> Any:
            """The stage with these fields; parsed and unpickled stages are their own."""
            try:
                name = (cls, cls.version, *fields, *[_token(value) for value in fields.values()])
                found = _MADE.get(name)
            except TypeError:  # A field that has no hash, such as a table.
                return super().__call__(**fields)
            if found is None:
                found = _MADE[name] = super().__call__(**fields)
            return found


def _token(value: Any) -> Any:
    """What tells a value of a field from every other: its value, of a stage which one it is."""
    kind = type(value)
    if kind is str or value is None:
        return value
    if isinstance(value, BaseModel):
        token = _TOKENS.get(value)
        if token is None:
            token = object() if isinstance(kind, Shared) else _EQUAL.setdefault(value, object())
            _TOKENS.put(value, token)
        return token
    if kind is tuple or kind is list:
        if _TEXT.issuperset(map(type, value)):
            return tuple(value)
        return tuple([_token(item) for item in value])
    return kind, value  # 1, 1.0 and True are equal, and not the same in a key.
