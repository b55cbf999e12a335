"""A ladder by pattern: short forms of rungs that stand for several.

    ladder = ["EleutherAI/pythia-{70m,160m,410m}"]      braces, in the order given
    ladder = ["models/pythia-*"]                        local folders, smallest weights first
    [[ladder]]                                          checkpoints of one model
    model = "EleutherAI/pythia-160m"
    revision = "step{1000,16000,143000}"

A rung without a name gets what stands in its braces, else the last part of its path.
"""

import glob
import re
from pathlib import Path
from typing import Any

from w2s.errors import UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_UNNAMED = re.compile(r"[^A-Za-z0-9._-]+")


def expanded(ladder: Any) -> Any:
    """The rungs of a ladder as tables, patterns written out.

    Args:
        ladder: what the file has: a text, or a list of texts and tables.

    Raises:
        UserError: a pattern without an item or without a match, or with two pairs of braces.
    """
    if isinstance(ladder, str):
        ladder = [ladder]
    if not isinstance(ladder, list | tuple):
        return ladder
    return [rung for item in ladder for rung in _rungs(item)]


def _rungs(item: Any) -> list[Any]:
    if isinstance(item, str):
        item = {"model": item}
    if not isinstance(item, dict) or not isinstance(item.get("model"), str):
        return [item]
    patterns = {name for name in ("model", "revision") if _BRACES.search(str(item.get(name, "")))}
    if len(patterns) > 1 or any(len(_BRACES.findall(item[name])) > 1 for name in patterns):
        raise UserError(
            f"rung {item['model']!r} has more than one pair of braces; write one, in `model` or in "
            "`revision`"
        )
    if patterns:
        return _braces(item, patterns.pop())
    if any(sign in item["model"] for sign in "*?["):
        return _folders(item)
    return [_named(item, Path(item["model"]).name)]


def _braces(item: dict[str, Any], field: str) -> list[dict[str, Any]]:
    pattern = item[field]
    choices = [choice.strip() for choice in _BRACES.findall(pattern)[0].split(",")]
    if not all(choices):
        raise UserError(f"rung {pattern!r} has nothing between two commas; write {{a,b,c}}")
    rungs = []
    for choice in choices:
        rung = {**item, field: _BRACES.sub(choice, pattern)}
        if "name" in item:
            rung["name"] = (
                _BRACES.sub(choice, item["name"])
                if _BRACES.search(item["name"])
                else f"{item['name']}-{choice}"
            )
        rungs.append(_named(rung, choice))
    return rungs


def _folders(item: dict[str, Any]) -> list[dict[str, Any]]:
    found = [Path(path) for path in glob.glob(str(Path(item["model"]).expanduser()))]
    folders = [path for path in found if (path / "config.json").is_file()]
    if not folders:
        raise UserError(
            f"rung {item['model']!r}: no model folder matches; a model folder has config.json, "
            "*.safetensors and a tokenizer"
        )
    folders.sort(key=lambda path: (_weight_bytes(path), path.name))
    return [_named({**item, "model": str(path)}, path.name) for path in folders]


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _named(item: dict[str, Any], name: str) -> dict[str, Any]:
    return {"name": _UNNAMED.sub("-", name).strip("-"), **item}
