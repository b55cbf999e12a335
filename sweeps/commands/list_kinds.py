"""`w2s list`: what can be named in a sweep file, with fields and defaults."""

import argparse
import inspect

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from w2s.spec import available, lookup


def run(arguments: argparse.Namespace) -> int:
    """Print one kind of thing."""
    if arguments.what == "models":
        return _models()
    for kind in available(_base(arguments.what)):
        found = lookup(_base(arguments.what), kind)
        print(f"{kind}\n    {(inspect.getdoc(found) or '').splitlines()[0]}")
        _fields(found)
    return 0


def _base(what: str) -> type[BaseModel]:
    if what == "tasks":
        from w2s.tasks.base import Task as Base
    elif what == "losses":
        from w2s.losses.base import Loss as Base
    else:
        from w2s.methods.base import Method as Base
    return Base


def _fields(model: type[BaseModel], indent: str = "      ") -> None:
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else repr(default)
        description = (field.description or "").partition("\n")[0]
        print(f"{indent}{name} = {shown}    {description}")


def _models() -> int:
    from w2s.corpora.base import Corpus
    from w2s.models.architecture import Architecture

    print('model = "FOLDER or HUB ID"')
    print(
        "    A transformers decoder or encoder with safetensors weights; `revision`: a checkpoint."
    )
    print("architecture = {...}, corpus = {...}")
    print("    A Llama that the sweep pretrains:")
    _fields(Architecture)
    for kind in available(Corpus):
        found = lookup(Corpus, kind)
        print(f"  corpus kind = {kind!r}: {(inspect.getdoc(found) or '').splitlines()[0]}")
        _fields(found)
    return 0
