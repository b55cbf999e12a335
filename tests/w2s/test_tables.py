"""Tables are read from where people keep them; what is wrong with them is said in one message."""

import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from w2s import tables
from w2s.errors import UserError

ROWS = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]


def write(file: Path, rows: list[dict[str, object]] = ROWS) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    match file.suffix:
        case ".parquet":
            frame.to_parquet(file, index=False)
        case ".csv":
            frame.to_csv(file, index=False)
        case ".tsv":
            frame.to_csv(file, index=False, sep="\t")
        case ".json":
            file.write_text(json.dumps(rows))
        case _:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("ending", tables.FORMATS)
def test_every_format_gives_the_same_texts(tmp_path: Path, ending: str) -> None:
    file = write(tmp_path / f"rows.{ending}")
    frame = tables.read(str(file), "train", ("text", "label"))
    assert frame["text"].tolist() == ["one", "two"]
    assert [str(label) for label in frame["label"]] == ["0", "1"]


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.parquet")
    assert list(tables.read(str(file), "train", ("label",)).columns) == ["label"]


def test_a_subset_is_a_folder_or_a_file_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"text": "neither"}])
    write(tmp_path / "folder" / "train.jsonl", [{"text": "folder"}])
    write(tmp_path / "file.csv", [{"text": "file"}])

    def text(subset: str | None) -> str:
        return tables.read(str(tmp_path), "train", ("text",), subset=subset)["text"].item()

    assert [text(subset) for subset in ("folder", "file", "other", None)] == [
        "folder",
        "file",
        "neither",
        "neither",
    ]
    assert tables.splits(str(tmp_path), ("train", "test"), "file") is None
    assert tables.splits(str(tmp_path), ("train", "test"), "folder") == ["train"]


def test_a_subset_changes_the_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "a" / "train.jsonl", [{"text": "a"}])
    write(tmp_path / "b" / "train.jsonl", [{"text": "b"}])
    digests = [tables.fingerprint(str(tmp_path), ("train",), subset=name) for name in ("a", "b")]
    assert len(set(digests)) == 2


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl", "json"):
        file = write(tmp_path / f"rows.{ending}")
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        assert tables.read(str(file), "train", ("text",))["text"].tolist() == ["one", "two"]


def test_the_shard_without_a_column_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet")
    write(tmp_path / "train-00001-of-00002.parquet", [{"text": "three", "class": 1}])
    expected = r"00001-of-00002\.parquet'.*no column 'label'; found: text, class; needed: text, la"
    with pytest.raises(UserError, match=expected):
        tables.read(str(tmp_path), "train", ("text", "label"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    lines = {
        "csv": ["text,label", "caf\xe9,1"],
        "jsonl": ['{"text": "one"}', '{"text": "caf\xe9"}'],
        "json": ["[", '{"text": "caf\xe9"}]'],
    }[ending]
    file.write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(UserError, match=rf"rows\.{ending}': line 2 is not UTF-8 \(byte 0xe9 at"):
        tables.read(str(file), "train", ("text",))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.jsonl", b'{"text": "one"}\n{"text": two}\n', "line 2 is no JSON"),
        ("rows.jsonl", b'["one"]\n', "line 1 is list, not an object"),
        ("rows.json", b'{"text": "one"}', "for one object a line use jsonl"),
        ("rows.json", b"[1, 2]", "not a list of objects"),
        ("rows.csv", b"text,label\none,1\ntwo,1,2,3\n", "line 3"),
        ("rows.csv", b"", "No columns"),
        ("rows.parquet", b"text", "cannot read"),
        ("rows.parquet", b"PAR1 and then nothing PAR1", "cannot read"),
        ("rows.xlsx", b"", "endings that can be read: parquet, jsonl, json, csv, tsv"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_message(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot read '.*{name}'") as raised:
        tables.read(str(tmp_path / name), "train", ("text",))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_revision_of_local_files_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv")
    with pytest.raises(UserError, match=r"`revision` is for hub ids; .* is on this machine"):
        tables.read(str(file), "train", ("text",), revision="main")


def test_a_repository_with_a_loading_script_is_read_from_its_parquet_branch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def load_dataset(path: str, **options: str | None) -> datasets.Dataset:
        asked.append(options)
        if options["revision"] is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found set.py")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    tables._from_hub.cache_clear()
    try:
        frame = tables.read("somebody/set", "train", ("text",), subset="part")
    finally:
        tables._from_hub.cache_clear()
    assert frame["text"].tolist() == ["one", "two"]
    assert asked[1] == {"data_dir": "part", "split": "train", "revision": "refs/convert/parquet"}


def test_a_column_that_the_hub_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, **options: datasets.Dataset.from_list(ROWS)
    )
    tables._from_hub.cache_clear()
    try:
        with pytest.raises(UserError, match=r"'somebody/set', split 'train': no column 'answer'"):
            tables.read("somebody/set", "train", ("answer",))
    finally:
        tables._from_hub.cache_clear()
