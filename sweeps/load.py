"""Reading a sweep file: TOML or Python, with `--set a.b=c` overrides, into `Sweep` and `Runtime`.

`load` reports every mistake in one message. It starts no Ray, opens no store and reads no data;
`sweeps.plan` does the rest before anything runs.
"""

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sweeps.config import Rung, Sweep
from sweeps.runtime import Runtime
from w2s.corpora.base import Corpus
from w2s.corpora.text import TextSource
from w2s.errors import UserError
from w2s.spec import describe
from w2s.tasks.base import Task


def load(path: str | Path, overrides: "tuple[str, ...] | list[str]" = ()) -> tuple[Sweep, Runtime]:
    """A sweep and its runtime from a TOML file, or from a Python file with a function `sweep()`.

    Args:
        path: the file.
        overrides: `a.b=value` strings, the value in TOML; list items by index
            (`blocks.0.num_trials=4`).

    Raises:
        UserError: the file is missing, is no TOML, or something in it is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no sweep file {str(path)!r}; give the path of a .toml or .py file")
    if path.suffix == ".py":
        return _from_python(path, overrides)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(table, override)
    where = _validated(Runtime, table.pop("runtime", {}), path, prefix="runtime.")
    return _fitted(_validated(Sweep, table, path), where, path), where


def _from_python(path: Path, overrides: "tuple[str, ...] | list[str]") -> tuple[Sweep, Runtime]:
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
        raise UserError(f"{path} defines no function `sweep`; it must return a Sweep")
    sweep = module.sweep()
    if not isinstance(sweep, Sweep):
        raise UserError(f"{path}: sweep() returned {type(sweep).__name__}, not a Sweep")
    runtime = getattr(module, "runtime", Runtime)()
    if overrides:
        table = sweep.model_dump(mode="json", exclude_none=True)
        # What is not set here is decided on the cluster.
        table["runtime"] = runtime.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        for override in overrides:
            _apply(table, override)
        runtime = _validated(Runtime, table.pop("runtime"), path, prefix="runtime.")
        sweep = _validated(Sweep, table, path)
    return _fitted(sweep, runtime, path), runtime


def _fitted(sweep: Sweep, runtime: Runtime, path: Path) -> Sweep:
    """The sweep with its data located; what the runtime names must be in it."""
    names = [entry.name for entry in (*sweep.ladder, *sweep.speakers)]
    for name in runtime.serve_models:
        if name not in names:
            raise UserError(
                f"{path}: runtime.serve_models.{name}: no such rung or speaker; there are "
                f"{', '.join(names)}"
            )
    return _located(sweep, runtime)


def _located(sweep: Sweep, runtime: Runtime) -> Sweep:
    """The sweep with data paths below the data root where there is such a file or folder."""
    if runtime.data_root is None:
        return sweep
    root = Path(runtime.data_root).expanduser()
    if not root.is_dir():
        raise UserError(
            f"runtime.data_root: no folder {runtime.data_root!r}; give the folder that holds the "
            "data sets, or leave it out"
        )

    def located(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(located, value))
        if not isinstance(value, Task | Corpus | TextSource | Rung):
            return value
        update = {name: located(getattr(value, name)) for name in type(value).model_fields}
        path = update.get("path")
        if isinstance(path, str) and path and (root / path).exists():
            update["path"] = str(root / path)
        return value.model_copy(update=update)

    return sweep.model_copy(update={"tasks": located(sweep.tasks), "ladder": located(sweep.ladder)})


def _apply(table: dict[str, Any], override: str) -> None:
    """Set one dotted path of a table, in place."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"--set {override!r} is not understood; write --set path.to.field=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    parts = path.strip().split(".")
    here: Any = table
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise UserError(
                    f"--set {path}: {'.'.join(parts[:index])} has {len(here)} items; found {part!r}"
                )
            if last:
                here[int(part)] = value
            else:
                here = here[int(part)]
        elif isinstance(here, dict):
            if last:
                here[part] = value
            else:
                here = here.setdefault(part, {})
        else:
            raise UserError(
                f"--set {path}: {'.'.join(parts[:index])} is {here!r}, which has no fields"
            )


def _validated(model: type[Any], table: dict[str, Any], path: Path, prefix: str = "") -> Any:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in describe(error, model, prefix))
        raise UserError(f"{path}:\n{lines}") from error
