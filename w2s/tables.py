"""Tables of text from where people keep them: a hub id, a folder with a file a split, or one file.

`locate` decides which of the three a `path` is. `read` gives the rows of one split as a data frame
whose needed columns are there; `fingerprint` is a digest of the content, so that changed data makes
new keys. Whatever is wrong raises `UserError` and says what was found. Local files never touch the
network.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from w2s.errors import UserError

FORMATS = ("parquet", "jsonl", "json", "csv", "tsv")
"""File name endings that can be read."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(path: str) -> Path | None:
    """The file or folder that `path` names, or None if it is a hub id.

    Raises:
        UserError: nothing is there, and it does not look like a hub id.
    """
    local = Path(path).expanduser()
    if local.exists():
        return local
    if _HUB_ID.fullmatch(path) and not path.endswith(tuple(f".{ending}" for ending in FORMATS)):
        return None
    raise UserError(
        f"data path {path!r} does not exist; give a folder with one file a split, a file "
        f"({', '.join(FORMATS)}), or a hub id such as 'allenai/sciq'"
    )


def has_splits(path: str) -> bool:
    """Whether the data come in splits; one file does not."""
    local = locate(path)
    return local is None or local.is_dir()


def read(
    path: str, split: str, columns: Sequence[str], revision: str | None = None
) -> pd.DataFrame:
    """The rows of one split, the needed columns only, in the order they are kept.

    Args:
        path: hub id, folder or file; of a file every row is read, whatever the split.
        split: name of the split on the hub, or of its file: `<split>.<ending>`, or the shards
            `<split>-*.<ending>` that a copy of a hub repository has, in the folder or in its folder
            `data`.
        columns: what is needed.
        revision: commit, branch or tag of a hub id.

    Raises:
        UserError: no such data, split or column; unreadable file; no rows.
    """
    frame = _whole(path, split, revision)
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(
            f"data {path!r}, split {split!r}: no column {', '.join(map(repr, missing))}; "
            f"found: {', '.join(map(str, frame.columns))}; needed: {', '.join(columns)}"
        )
    if frame.empty:
        raise UserError(f"data {path!r}: split {split!r} has no rows")
    selected = frame[list(columns)]
    assert isinstance(selected, pd.DataFrame)
    return selected


def fingerprint(path: str, splits: Sequence[str], revision: str | None = None) -> str:
    """Digest (16 hex digits) of these splits: of the files' bytes, or of the rows from the hub.

    Raises:
        UserError: no such data.
    """
    local = locate(path)
    sha = hashlib.sha256()
    for split in splits if has_splits(path) else splits[:1]:
        sha.update(f"{split}\n".encode())
        if local is None:
            records = _from_hub(path, split, revision).to_json(orient="records")
            sha.update(str(records).encode())
        else:
            for file in _files(local, split):
                stat = file.stat()
                sha.update(_file_digest(file, stat.st_size, stat.st_mtime_ns))
    return sha.hexdigest()[:16]


def _whole(path: str, split: str, revision: str | None) -> pd.DataFrame:
    local = locate(path)
    if local is None:
        return _from_hub(path, split, revision)
    if revision is not None:
        raise UserError(f"`revision` is for hub ids; {path!r} is on this machine: leave it out")
    return pd.concat([_from_file(file) for file in _files(local, split)], ignore_index=True)


def _files(local: Path, split: str) -> list[Path]:
    if local.is_file():
        return [local]
    for folder in (local, local / "data"):
        for ending in FORMATS:
            whole = folder / f"{split}.{ending}"
            found = [whole] if whole.is_file() else sorted(folder.glob(f"{split}-*.{ending}"))
            if found:
                return found
    names = ", ".join(sorted(file.name for file in local.iterdir())) or "nothing"
    raise UserError(
        f"folder {str(local)!r} has no file for the split {split!r}; found: {names}; "
        f"needed: {split}.parquet (or {', '.join(FORMATS[1:])})"
    )


def _from_file(file: Path) -> pd.DataFrame:
    # Text stays text: "1900" is no number, "None" and "NA" are answers.
    try:
        match file.suffix:
            case ".parquet":
                return pd.read_parquet(file)
            case ".jsonl":
                with file.open(encoding="utf-8") as lines:
                    return pd.DataFrame([json.loads(line) for line in lines if line.strip()])
            case ".json":
                return pd.DataFrame(json.loads(file.read_text(encoding="utf-8")))
            case ".csv" | ".tsv":
                separator = "," if file.suffix == ".csv" else "\t"
                return pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read {str(file)!r}: {error}") from error
    raise UserError(f"cannot read {str(file)!r}; endings that can be read: {', '.join(FORMATS)}")


@lru_cache(maxsize=16)
def _from_hub(path: str, split: str, revision: str | None) -> pd.DataFrame:
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetsError
    from httpx import HTTPError

    try:
        rows = load_dataset(path, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError, HTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot load split {split!r} of data set {path!r} from the hub: "
            f"{type(error).__name__}: {reason}; "
            "without a network, give `path` a folder with one file a split in the same columns"
        ) from error
    assert isinstance(rows, Dataset)
    frame = rows.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    return frame


@lru_cache(maxsize=64)
def _file_digest(file: Path, size: int, mtime_ns: int) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
