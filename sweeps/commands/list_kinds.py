"""`w2s list`: what can be named in a sweep file; with a name, its fields and defaults."""

import argparse
import importlib
import inspect
import textwrap
from collections.abc import Iterable

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from w2s.errors import UserError
from w2s.spec import available, lookup

WIDTH = 96
BASES = {
    "tasks": ("w2s.tasks.base", "Task"),
    "losses": ("w2s.losses.base", "Loss"),
    "methods": ("w2s.methods.base", "Method"),
    "combiners": ("w2s.combiners.base", "Combiner"),
    "weightings": ("w2s.weightings.base", "Weighting"),
    "protocols": ("serving.debate.protocols.base", "DebateProtocol"),
    "models": ("w2s.corpora.base", "Corpus"),
}
"""Where the base of each kind of thing is: naming one loads no other."""


def run(arguments: argparse.Namespace) -> int:
    """Print the kinds of one thing, a line each, or one kind with its fields."""
    bases = _bases(arguments.what)
    if arguments.name is not None:
        return _one(arguments.what, arguments.name, bases)
    if arguments.what == "models":
        print('model = "FOLDER or HUB ID"')
        print("    A decoder or encoder with safetensors weights; `revision`: a checkpoint of it;")
        print('    "lab/model-{70m,160m}" or "folder/model-*": several rungs;')
        print("    `trust_remote_code = true`: Python code that comes with it may run.")
        print("architecture = {...}, corpus = {...}")
        print("    A Llama that the sweep pretrains, on a corpus by kind:")
    for base in bases:
        kinds = available(base)
        longest = max(map(len, kinds))
        for kind in kinds:
            print(f"{kind:{longest}}  {_summary(lookup(base, kind))}")
    singular = "KIND" if arguments.what != "models" else "KIND, or `w2s list models architecture`"
    print(f"\nfields and defaults: w2s list {arguments.what} {singular}")
    return 0


def _one(what: str, name: str, bases: "list[type[BaseModel]]") -> int:
    if what == "models" and name == "architecture":
        from w2s.models.architecture import Architecture

        found: type[BaseModel] = Architecture
    else:
        kinds = [kind for base in bases for kind in available(base)]
        if name not in kinds:
            raise UserError(f"no {name!r} among the {what}; there are: {', '.join(kinds)}")
        found = next(lookup(base, name) for base in bases if name in available(base))
    print(inspect.getdoc(found) or "")
    _fields(found)
    return 0


def _bases(what: str) -> "list[type[BaseModel]]":
    module, name = BASES[what]
    return [getattr(importlib.import_module(module), name)]


def _summary(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").splitlines()[0]


def _fields(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else repr(default)
        print(f"\n  {name} = {shown}")
        description = " ".join(_description(model, name).split())
        for line in textwrap.wrap(description, WIDTH - 6):
            print(f"      {line}")


def _description(model: type[BaseModel], name: str) -> str:
    """What a field means: a class that only changes a default does not say it again."""
    found: Iterable[str | None] = (
        base.model_fields[name].description
        for base in model.__mro__
        if issubclass(base, BaseModel) and name in base.model_fields
    )
    return next((description for description in found if description), "")
