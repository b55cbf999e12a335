"""Specs: how a frozen pydantic model is parsed by kind, listed, and hashed.

A *spec* is a frozen pydantic model with `extra="forbid"`: the class is the config, its fields are
the hyperparameters. `Spec` only carries that configuration; every function here works on any
pydantic model, so `serving` can define its own specs and still be parsed and hashed.

* `OneOf[Base]` is a field type that accepts `"confidence"`, `{kind = "confidence", ...}` or an
  instance, imports the one module whose file name is the kind, and validates its one subclass of
  `Base`.
* `available(Base)` lists the kinds: the file names beside the base class.
* `digest(value)` is sha256 over canonical JSON (`encoded`) of every field, defaults included,
  walked by runtime type.
"""

import hashlib
import importlib
import inspect
import json
import math
import weakref
from collections.abc import Callable, Iterable
from enum import Enum
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, SerializeAsAny, ValidationError
from pydantic_core import core_schema

from w2s.errors import UserError

KEY_LENGTH = 16
T = TypeVar("T", bound=BaseModel)
V = TypeVar("V")


class Spec(BaseModel):
    """A frozen model that refuses unknown fields; the base of whatever is parsed or hashed."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    def identity_fields(self) -> Iterable[str]:
        """Names of the hashed fields: all but a place whose content has a digest of its own."""
        return type(self).model_fields


def _package(base: type[BaseModel]) -> str:
    return base.__module__.rpartition(".")[0]


def available(base: type[BaseModel]) -> list[str]:
    """Kinds that can be named where a `base` is expected: the modules beside its own."""
    folder = Path(inspect.getfile(base)).parent
    own = base.__module__.rpartition(".")[2]
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if path.stem not in (own, "__init__") and path.stem[0] != "_"
    )


def lookup(base: type[T], kind: str) -> type[T]:
    """The subclass of `base` named `kind`: a file beside it, or `module:Class` from elsewhere.

    Raises:
        UserError: no such kind; the message lists those there are.
    """
    if ":" in kind:
        module_name, _, class_name = kind.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise UserError(f"cannot load {base.__name__.lower()} {kind!r}: {error}") from error
        if not (isinstance(found, type) and issubclass(found, base)):
            raise UserError(f"{kind!r} is not a {base.__name__}")
        return found
    if kind not in available(base):
        raise UserError(
            f"unknown {base.__name__.lower()} {kind!r}; available: {', '.join(available(base))}"
        )
    module = importlib.import_module(f"{_package(base)}.{kind}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    assert len(found) == 1, (
        f"{module.__name__} must define exactly one {base.__name__}, has {found}"
    )
    return found[0]


def parse(base: type[T], value: Any) -> T:
    """An instance of a subclass of `base` from a kind, or from a table with a `kind`."""
    if isinstance(value, base):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, dict) or "kind" not in value:
        raise UserError(
            f"a {base.__name__.lower()} is a kind or a table with a `kind`; found {value!r}; "
            f"available: {', '.join(available(base))}"
        )
    found = lookup(base, value["kind"])
    if ":" in value["kind"]:
        value = {name: item for name, item in value.items() if name != "kind"}
    try:
        return found.model_validate(value)
    except ValidationError as error:
        raise UserError("; ".join(describe(error, found))) from error


class _ByKind:
    """Has pydantic `parse` a value before it validates it as the annotated base class."""

    def __get_pydantic_core_schema__(
        self, base: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: parse(base, value), handler(base)
        )


OneOf = Annotated[T, SerializeAsAny(), _ByKind()]  # pyright: ignore[reportCallIssue]
"""Field type for "some subclass of a base, named by its kind"; dumps what the subclass adds."""


def encoded(value: Any, stand_in: Callable[[BaseModel], str | None] | None = None) -> str:
    """Canonical JSON text of a value, in which every field of every nested spec appears.

    Models are walked by their runtime type, so a field typed as a base class keeps what its
    subclass adds. A class attribute `version` enters beside the fields. Names are sorted; there is
    no space and no character beyond ASCII.

    Args:
        value: spec, container or scalar.
        stand_in: may return a string that stands for a nested model (a stage's key). A function of
            a module: what is encoded with it is remembered as long as the model lives.

    Raises:
        TypeError: the value has no stable encoding (callable, set, NaN, arbitrary object).
    """
    if isinstance(value, str) and not isinstance(value, Enum):
        return _quoted(value)
    if isinstance(value, BaseModel):
        key = stand_in(value) if stand_in is not None else None
        if key is not None:
            return f'{{"key":{_quoted(key)}}}'
        if not value.model_config.get("frozen"):
            return encoded_fields(value, stand_in)
        remembered = _TEXTS.setdefault(stand_in, ByIdentity())
        text = remembered.get(value)
        if text is None:
            text = encoded_fields(value, stand_in)
            remembered.put(value, text)
        return text
    if isinstance(value, Enum):
        return encoded(value.value, stand_in)
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"cannot hash {value}: write a finite number")
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{','.join([encoded(item, stand_in) for item in value])}]"
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"cannot hash a table whose keys are not text: {value!r}")
        return _table({key: encoded(item, stand_in) for key, item in value.items()})
    raise TypeError(
        f"cannot hash {value!r} of type {type(value).__name__}: make it a spec, text, a number "
        "or a list of these"
    )


def encoded_fields(
    spec: BaseModel, stand_in: Callable[[BaseModel], str | None] | None = None
) -> str:
    """Canonical JSON text of one spec, for which nothing stands in: class, `version`, fields."""
    texts = {"class": _quoted(f"{type(spec).__module__}.{type(spec).__qualname__}")}
    version = getattr(type(spec), "version", None)
    if isinstance(version, int):
        texts["version"] = json.dumps(version)
    names = spec.identity_fields() if isinstance(spec, Spec) else type(spec).model_fields
    values = vars(spec)
    for name in names:
        texts[name] = encoded(values[name], stand_in)
    return _table(texts)


def _table(texts: dict[str, str]) -> str:
    return "{" + ",".join([f"{_quoted(name)}:{texts[name]}" for name in sorted(texts)]) + "}"


class ByIdentity(Generic[V]):
    """What is known of objects, each told apart from equal ones and forgotten with its object."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[int, tuple[weakref.ref[Any], V]] = {}

    def get(self, owner: object) -> V | None:
        """What was put for this object, if anything."""
        known = self._known.get(id(owner))
        return known[1] if known is not None and known[0]() is owner else None

    def put(self, owner: object, value: V) -> None:
        """Remember a value as long as the object lives."""
        number = id(owner)
        gone = weakref.ref(owner, lambda _: self._known.pop(number, None))
        self._known[number] = (gone, value)


_TEXTS: dict[Callable[[BaseModel], str | None] | None, ByIdentity[str]] = {}
"""Texts of frozen models by what stands in for models within them."""


def digest(value: Any) -> str:
    """First 16 hex digits of the sha256 of the canonical JSON of `value`."""
    return digest_of_text(encoded(value))


def digest_of_text(text: str) -> str:
    """First 16 hex digits of the sha256 of an ASCII text."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:KEY_LENGTH]


def describe(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[str]:
    """Each problem of a failed validation as one sentence: where, what, found, allowed.

    Args:
        error: what pydantic raised.
        model: the model that was validated; its fields are listed when a key is unknown.
        prefix: goes before every location.
    """
    sentences = []
    for problem in error.errors():
        location = problem["loc"]
        where = prefix + ".".join(str(part) for part in location)
        found = problem.get("input")
        if problem["type"] == "extra_forbidden":
            allowed = _fields_at(model, location[:-1])
            sentence = f"{where}: unknown key" + (
                f"; allowed here: {', '.join(allowed)}" if allowed else ""
            )
        elif problem["type"] == "missing":
            sentence = f"{where}: required, but missing"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = (
                message[0].lower() + message[1:] if problem["type"] != "value_error" else message
            )
            shown = f"; found {found!r}" if isinstance(found, str | int | float | bool) else ""
            sentence = f"{where}: {message}{'' if shown.removeprefix('; ') in message else shown}"
        sentences.append(sentence.removeprefix(": "))
    return list(dict.fromkeys(sentences))


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model at a location of the schema, where that is plain."""
    here: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = getattr(here, "model_fields", {}).get(part)
        here = _model_in(field.annotation) if field is not None else None
    return sorted(getattr(here, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The first model class inside an annotation."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return annotation
    found = (_model_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)
