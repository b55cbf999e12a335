import json
import os
from pathlib import Path

import pandas as pd
import pytest

from w2s import tables
from w2s.errors import UserError
from w2s.tasks.sciq import SciQ
from w2s.types import SPLITS, Row, TaskData

SOURCE = Path(__file__).parents[2] / "fixtures" / "sciq"


def source_frame(split: str) -> pd.DataFrame:
    lines = (SOURCE / f"{split}.jsonl").read_text().splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def write_source(folder: Path, ending: str, shuffle: bool = False) -> Path:
    folder.mkdir()
    for split in ("train", "validation", "test"):
        frame = source_frame(split)
        if shuffle:
            frame = frame.sample(frac=1, random_state=3)
        file = folder / f"{split}.{ending}"
        match ending:
            case "parquet":
                frame.to_parquet(file, index=False)
            case "csv":
                frame.to_csv(file, index=False)
            case _:
                frame.to_json(file, orient="records", lines=True)
    return folder


@pytest.fixture(scope="module")
def data() -> TaskData:
    return SciQ(path=str(SOURCE)).load()


def rows_about(data: TaskData, word: str) -> list[Row]:
    return [row for split in SPLITS for row in data.rows[split] if word in row.prompt]


def test_each_question_gives_one_right_and_one_wrong_row_in_one_split(data: TaskData) -> None:
    source = pd.concat([source_frame(split) for split in ("train", "validation", "test")])
    right = set(zip(source["question"], source["correct_answer"], strict=True))
    for split in SPLITS:
        by_group: dict[str, list[Row]] = {}
        for row in data.rows[split]:
            by_group.setdefault(row.group, []).append(row)
            question, _, answer = row.prompt.removeprefix("Q: ").partition(" A: ")
            if "salt" not in question:
                assert ((question, answer) in right) == bool(row.label)
        for rows in by_group.values():
            assert sum(row.label for row in rows) * 2 == len(rows)
    groups = [{row.group for row in data.rows[split]} for split in SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_training_questions_are_halved(data: TaskData) -> None:
    # 15 rows: one repeats a question, one question is in test and one in validation.
    halves = [len({row.group for row in data.rows[s]}) for s in ("weak_train", "strong_train")]
    assert halves == [6, 6]


def test_questions_shared_with_test_and_validation_leave_training_only(data: TaskData) -> None:
    assert {row.prompt for row in data.rows["test"]} >= {
        "Q: Which metal is liquid at room temperature? A: mercury"
    }
    for question in ("liquid at room temperature", "melted rock"):
        assert not [
            row
            for split in ("weak_train", "strong_train")
            for row in data.rows[split]
            if question in row.prompt
        ]
    for held_out in ("test", "val"):
        note = f"1 groups of {held_out} are also in train: 2 rows were dropped from train."
        assert note in data.notes


def test_a_right_answer_among_the_distractors_is_never_a_wrong_row(data: TaskData) -> None:
    rows = rows_about(data, "carries genes")
    assert {row.prompt.rpartition(" A: ")[2]: row.label for row in rows if row.label} == {"DNA": 1}
    wrong = [row.prompt.rpartition(" A: ")[2] for row in rows if not row.label]
    assert len(wrong) == 1
    assert wrong[0] in ("starch", "fat")
    assert any("1 rows have the right answer among the distractors" in note for note in data.notes)


def test_copies_of_a_question_are_merged_with_all_their_right_answers(data: TaskData) -> None:
    rows = rows_about(data, "table salt")
    assert len({row.group for row in rows}) == 1
    answers = {row.prompt.rpartition(" A: ")[2]: row.label for row in rows}
    assert {a for a, label in answers.items() if label} == {
        "sodium chloride",
        "sodium and chlorine",
    }
    assert len([a for a, label in answers.items() if not label]) == 2


def test_text_that_looks_like_a_number_or_a_gap_stays_text(tmp_path: Path, data: TaskData) -> None:
    for ending in ("csv", "jsonl"):
        folder = write_source(tmp_path / ending, ending)
        found = SciQ(path=str(folder)).load()
        assert {row.prompt for row in rows_about(found, "comet") if row.label} == {
            "Q: In which year was the made-up comet first seen? A: 1900"
        }
        assert {row.prompt for row in rows_about(found, "Oro") if row.label} == {
            "Q: How many moons has the made-up planet Oro? A: None"
        }


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_rows_do_not_depend_on_format_or_order_of_the_files(
    tmp_path: Path, data: TaskData, ending: str
) -> None:
    folder = write_source(tmp_path / "shuffled", ending, shuffle=True)
    assert SciQ(path=str(folder)).load().rows == data.rows


def test_limits_keep_a_balanced_subset_of_the_rows(data: TaskData) -> None:
    few = SciQ(path=str(SOURCE), max_rows=8, max_val_rows=2, max_test_rows=4).load()
    assert [len(few.rows[split]) for split in SPLITS] == [4, 4, 2, 4]
    for split in SPLITS:
        assert set(few.rows[split]) <= set(data.rows[split])
        assert sum(row.label for row in few.rows[split]) * 2 == len(few.rows[split])


def test_the_seed_draws_other_halves(data: TaskData) -> None:
    other = SciQ(path=str(SOURCE), seed=1).load()
    assert {row.group for row in other.rows["weak_train"]} != {
        row.group for row in data.rows["weak_train"]
    }


def test_a_single_file_is_cut_into_splits(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text((SOURCE / "train.jsonl").read_text())
    data = SciQ(path=str(file)).load()
    counts = [len({row.group for row in data.rows[split]}) for split in SPLITS]
    # 14 questions: 20 % are 3, 10 % are 1, and 10 are left to halve.
    assert counts == [5, 5, 1, 3]
    assert any("3 of 14 groups of train were cut off" in note for note in data.notes)


def test_no_seed_changes_what_is_cut_off_for_test(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text((SOURCE / "train.jsonl").read_text())
    tests = [
        {row.group for row in SciQ(path=str(file), seed=s).load().rows["test"]} for s in (0, 1)
    ]
    assert tests[0] == tests[1]


def test_fingerprint_follows_the_content_of_the_files(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source", "jsonl")
    before = SciQ(path=str(folder)).fingerprint()
    again = write_source(tmp_path / "again", "jsonl")
    assert SciQ(path=str(again)).fingerprint() == before
    file = folder / "test.jsonl"
    file.write_text(file.read_text().replace("prism", "lens"))
    assert SciQ(path=str(folder)).fingerprint() != before


def test_a_path_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"'data/none/sciq' does not exist; give a folder"):
        SciQ(path="data/none/sciq").load()


def test_a_folder_without_any_split_lists_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text((SOURCE / "train.jsonl").read_text())
    with pytest.raises(UserError, match=r"no file for the split 'train' or .*; found: dev.jsonl"):
        SciQ(path=str(tmp_path)).load()


def test_a_missing_column_is_named_beside_those_found(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source", "parquet")
    source_frame("test").drop(columns="distractor2").to_parquet(folder / "test.parquet")
    with pytest.raises(UserError, match=r"no column 'distractor2'; found: question, .*; needed: "):
        SciQ(path=str(folder)).load()


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source", "parquet")
    source_frame("test").head(0).to_parquet(folder / "test.parquet")
    with pytest.raises(UserError, match="split 'test' has no rows"):
        SciQ(path=str(folder)).load()


def test_training_that_is_all_in_test_is_refused(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "source", "parquet")
    source_frame("test").to_parquet(folder / "train.parquet")
    with pytest.raises(UserError, match=r"leave the split 'weak_train' .* empty: 0 train"):
        SciQ(path=str(folder)).load()


def test_shards_of_a_copied_hub_repository_are_joined(tmp_path: Path, data: TaskData) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        frame = source_frame(split)
        for index, part in enumerate((frame.iloc[:2], frame.iloc[2:])):
            part.to_parquet(tmp_path / "data" / f"{split}-0000{index}-of-00002.parquet")
    assert SciQ(path=str(tmp_path)).load().rows == data.rows


def test_a_hub_id_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch, data: TaskData) -> None:
    import datasets

    def load_dataset(
        path: str, name: str | None, split: str, revision: str | None
    ) -> datasets.Dataset:
        assert (path, name, revision) == ("allenai/sciq", None, "abc")
        return datasets.Dataset.from_pandas(source_frame(split), preserve_index=False)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = SciQ(revision="abc")
    try:
        assert task.load().rows == data.rows
        assert len(task.fingerprint()) == 16
    finally:
        tables._from_hub.cache_clear()


def test_an_unreachable_hub_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(path: str, **_: object) -> datasets.Dataset:
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"ConnectionError: no route; without a network, give"):
        SciQ().load()


def test_masked_transcripts_keep_form_and_equalities() -> None:
    masked = SciQ().mask_transcript(
        "Debater A (the answer is correct): Mitochondria make 38 ATP; mitochondria aren't Cells."
    )
    assert masked == (
        "Debater A (the answer is correct): "
        "<word:1> <word:2> <number:3> <word:4>; <word:1> aren't <word:5>."
    )


@pytest.mark.skipif("W2S_DATA" not in os.environ, reason="W2S_DATA names no folder of real sets")
def test_the_known_leaks_of_the_real_set_are_found() -> None:
    data = SciQ(path=str(Path(os.environ["W2S_DATA"]) / "sciq")).load()
    for number, held_out in ((8, "test"), (12, "val")):
        note = f"{number} groups of {held_out} are also in train: {2 * number} rows were dropped"
        assert any(found.startswith(note) for found in data.notes)
    assert len(data.rows["test"]) == 2000
    assert sum(row.label for row in data.rows["test"]) == 1000
