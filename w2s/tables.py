"""Tables of text from where people keep them: a hub id, a folder with a file a split, or one file.

`locate` decides which of the three a `path` is. `splits` lists the splits that are there. `read`
gives the rows of one split as a data frame whose needed columns are there; `place` names one of its
rows for a message; `fingerprint` is a digest of the content, so that changed data makes new keys.
Whatever is wrong raises `UserError` and says what was found. Local files never touch the network.

A `subset` is a configuration of a hub id, or a folder of its repository. Under a local folder it is
the folder or the file of that name, where there is one.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from w2s.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import ChunkedArray

FORMATS = ("parquet", "jsonl", "json", "csv", "tsv")
"""File name endings that can be read."""

PARQUET_EXPORT = "refs/convert/parquet"
"""Branch on which the hub keeps a parquet copy of repositories that hold a loading script."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(path: str, subset: str | None = None) -> Path | None:
    """The file or folder that `path` and `subset` name, or None if it is a hub id.

    Raises:
        UserError: nothing is there, and it does not look like a hub id.
    """
    local = Path(path).expanduser()
    if local.is_dir() and subset is not None:
        inside = [local / subset, *(local / f"{subset}.{ending}" for ending in FORMATS)]
        return next((found for found in inside if found.exists()), local)
    if local.exists():
        return local
    if _HUB_ID.fullmatch(path) and not path.endswith(tuple(f".{ending}" for ending in FORMATS)):
        return None
    raise UserError(
        f"data path {path!r} does not exist; give a folder with one file a split, a file "
        f"({', '.join(FORMATS)}), or a hub id such as 'allenai/sciq'"
    )


def splits(path: str, names: Sequence[str], subset: str | None = None) -> list[str] | None:
    """Those of `names` that a folder has files for; None for one file, which has no splits.

    Of a hub id all are taken to be there.

    Raises:
        UserError: no such data, or a folder with none of them.
    """
    local = locate(path, subset)
    if local is None:
        return list(names)
    if local.is_file():
        return None
    found = [name for name in names if _find(local, name)]
    if not found:
        raise UserError(_no_file(local, names))
    return found


def read(
    path: str,
    split: str,
    columns: Sequence[str],
    revision: str | None = None,
    subset: str | None = None,
) -> pd.DataFrame:
    """The rows of one split, the needed columns only, in the order they are kept.

    Args:
        path: hub id, folder or file; of a file every row is read, whatever the split.
        split: name of the split on the hub, or of its file: `<split>.<ending>`, or the shards
            `<split>-*.<ending>` that a copy of a hub repository has, in the folder or in its folder
            `data`.
        columns: what is needed.
        revision: commit, branch or tag of a hub id.
        subset: configuration of a hub id; folder or file inside a local folder, where it has one.

    Raises:
        UserError: no such data, split or column; unreadable file; no rows.
    """
    local = locate(path, subset)
    if local is None:
        rows = _from_hub(path, split, revision, subset)
        _check_columns(f"data {path!r}, split {split!r}", rows.column_names, columns)
        frame = rows.select_columns(list(columns)).to_pandas()
    else:
        if revision is not None:
            raise UserError(f"`revision` is for hub ids; {path!r} is on this machine: leave it out")
        parts = [_from_file(file, columns) for file in _files(local, split)]
        frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    assert isinstance(frame, pd.DataFrame)
    if frame.empty:
        raise UserError(f"data {path!r}: split {split!r} has no rows")
    return frame


def place(path: str, split: str, row: int, subset: str | None = None) -> str:
    """Where a row of `read` is, for a message: the file and the row in it, from 1 on."""
    local = locate(path, subset)
    if local is None:
        return f"data {path!r}, split {split!r}, row {row + 1}"
    for file in _files(local, split):
        number = len(_from_file(file, ()))
        if row < number:
            return f"{str(file)!r}, row {row + 1}"
        row -= number
    raise AssertionError("a row that was read is in none of the files")


def fingerprint(
    path: str, splits: Sequence[str], revision: str | None = None, subset: str | None = None
) -> str:
    """Digest (16 hex digits) of these splits: of the files' bytes, or of the rows from the hub.

    Raises:
        UserError: no such data.
    """
    local = locate(path, subset)
    sha = hashlib.sha256()
    for split in splits[:1] if local is not None and local.is_file() else splits:
        sha.update(f"{split}\n".encode())
        if local is None:
            for batch in (
                _from_hub(path, split, revision, subset).with_format("pandas").iter(10_000)
            ):
                assert isinstance(batch, pd.DataFrame)
                sha.update(str(batch.to_json(orient="records")).encode())
        else:
            for file in _files(local, split):
                stat = file.stat()
                sha.update(_file_digest(file, stat.st_size, stat.st_mtime_ns))
    return sha.hexdigest()[:16]


def _files(local: Path, split: str) -> list[Path]:
    found = [local] if local.is_file() else _find(local, split)
    if not found:
        raise UserError(_no_file(local, [split]))
    return found


def _find(folder: Path, split: str) -> list[Path]:
    """The file or the shards of one split in a folder; none if there are none."""
    for inside in (folder, folder / "data"):
        for ending in FORMATS:
            whole = inside / f"{split}.{ending}"
            found = [whole] if whole.is_file() else sorted(inside.glob(f"{split}-*.{ending}"))
            if found:
                return found
    return []


def _no_file(local: Path, names: Sequence[str]) -> str:
    found = ", ".join(sorted(file.name for file in local.iterdir())) or "nothing"
    return (
        f"folder {str(local)!r} has no file for the split {' or '.join(map(repr, names))}; "
        f"found: {found}; needed: {names[0]}.parquet (or {', '.join(FORMATS[1:])})"
    )


def _check_columns(where: str, found: Sequence[Any], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(
            f"{where}: no column {', '.join(map(repr, missing))}; "
            f"found: {', '.join(map(str, found))}; needed: {', '.join(needed)}"
        )


def _from_file(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """The needed columns of one file; of none needed, a frame with its rows alone."""
    # Text stays text: "1900" is no number, "None" and "NA" are answers.
    import pyarrow

    try:
        match file.suffix:
            case ".parquet":
                return _from_parquet(file, columns)
            case ".jsonl":
                frame = pd.DataFrame(_json_lines(file), dtype=object)
            case ".json":
                frame = _json_table(file)
            case ".csv" | ".tsv":
                separator = "," if file.suffix == ".csv" else "\t"
                frame = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
            case _:
                endings = ", ".join(FORMATS)
                raise UserError(f"cannot read {str(file)!r}; endings that can be read: {endings}")
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {str(file)!r}: {_not_utf8(file)}") from error
    except (ValueError, OSError, pyarrow.ArrowException) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot read {str(file)!r}: {reason}") from error
    _check_columns(repr(str(file)), list(frame.columns), columns)
    selected = frame[list(columns)]
    assert isinstance(selected, pd.DataFrame)
    return selected


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is {type(row).__name__}, not an object {{...}}")
            rows.append(row)
    return rows


def _json_table(file: Path) -> pd.DataFrame:
    rows = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            "it is not a list of objects [{...}, ...]; for one object a line use jsonl"
        )
    return pd.DataFrame(rows, dtype=object)


def _from_parquet(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(file) as source:
        _check_columns(repr(str(file)), source.schema_arrow.names, columns)
        table = source.read(columns=list(columns))
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"column {name!r}: {_first_wrong(column) or error}") from error
    return table.to_pandas()


def _first_wrong(column: "ChunkedArray") -> str:
    """Where a column of text stops being UTF-8; empty if it does not."""
    import pyarrow

    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        for row, cell in enumerate(column.cast(pyarrow.large_binary()), start=1):
            try:
                (cell.as_py() or b"").decode("utf-8")
            except UnicodeDecodeError:
                return f"row {row} is not UTF-8; write the column as UTF-8"
    return ""


def _not_utf8(file: Path) -> str:
    """Where a file of lines stops being UTF-8."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                wrong = f"byte 0x{line[error.start]:02x} at byte {error.start + 1}"
                return f"line {number} is not UTF-8 ({wrong}); save the file as UTF-8"
    raise AssertionError("a file that could not be decoded can be")


@lru_cache(maxsize=16)
def _from_hub(path: str, split: str, revision: str | None, subset: str | None) -> "Dataset":
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetsError
    from httpx import HTTPError

    try:
        try:
            rows = load_dataset(path, name=subset, split=split, revision=revision)
        except ValueError as error:
            if subset is None or "BuilderConfig" not in str(error):
                raise
            try:
                rows = load_dataset(path, data_dir=subset, split=split, revision=revision)
            except (OSError, ValueError, DatasetsError):
                raise error from None
        except RuntimeError as error:
            if revision is not None or "scripts are no longer supported" not in str(error):
                raise
            rows = load_dataset(path, data_dir=subset, split=split, revision=PARQUET_EXPORT)
    except (OSError, ValueError, RuntimeError, DatasetsError, HTTPError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot load split {split!r} of data set {path!r} from the hub: "
            f"{type(error).__name__}: {reason}; "
            "without a network, give `path` a folder with one file a split in the same columns"
        ) from error
    assert isinstance(rows, Dataset)
    return rows


@lru_cache(maxsize=64)
def _file_digest(file: Path, size: int, mtime_ns: int) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
