"""How rows of a source become four splits, and what becomes of bad data."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from w2s import tables
from w2s.errors import UserError
from w2s.tasks import _dataset
from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks.dream import Dream
from w2s.tasks.ethics import Ethics
from w2s.tasks.hellaswag import HellaSwag
from w2s.tasks.openbookqa import OpenBookQA
from w2s.types import SPLITS, TaskData

NUM_ROWS = 60


class Toy(DatasetTask):
    """Text and label; the group is what stands before the colon."""

    kind: Literal["toy"] = "toy"
    columns: ClassVar[tuple[str, ...]] = ("text", "label")

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        classes = {"no": 0, "yes": 1, "maybe": -1}
        for _, label, (text,), _ in source.rows(frame, ("text",), label="label", classes=classes):
            yield Example(prompt=text, label=label, group=text.partition(":")[0])


class ThreeClasses(Toy):
    """Labels 0 to 2."""

    @property
    def num_classes(self) -> int:
        return 3

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        classes = {"0": 0, "1": 1, "2": 2}
        for _, label, (text,), _ in source.rows(frame, ("text",), label="label", classes=classes):
            yield Example(prompt=text, label=label, group=text)


Raw = dict[str, Any]


def toy_rows(prefix: str, number: int = NUM_ROWS, num_yes: int | None = None) -> list[Raw]:
    yes = number // 2 if num_yes is None else num_yes
    return [
        {"text": f"{prefix}{index}: a text", "label": "yes" if index < yes else "no"}
        for index in range(number)
    ]


def write(folder: Path, **splits: list[Raw]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder with three splits of 60, 20 and 20 rows, half of each yes."""
    return write(
        tmp_path / "toy",
        train=toy_rows("t"),
        validation=toy_rows("v", 20),
        test=toy_rows("e", 20),
    )


def sizes(data: TaskData) -> list[int]:
    return [len(data.rows[split]) for split in SPLITS]


def replace_row(folder: Path, split: str, index: int, **cells: Any) -> None:
    file = folder / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[index] |= cells
    write(folder, **{split: rows})


# From source splits to the four splits.


def test_a_source_with_all_splits_keeps_them(whole: Path) -> None:
    data = Toy(path=str(whole)).load()
    assert sizes(data)[2:] == [20, 20]
    assert {row.prompt[0] for row in data.rows["test"]} == {"e"}
    assert {row.prompt[0] for row in data.rows["val"]} == {"v"}
    assert {row.prompt[0] for split in SPLITS[:2] for row in data.rows[split]} == {"t"}


@pytest.mark.parametrize(
    ("present", "test_from", "val_from", "train_from"),
    [
        (("train", "validation"), "v", "t", "t"),
        (("train", "test"), "e", "t", "t"),
        (("validation", "test"), "e", "v", "v"),
        (("train",), "t", "t", "t"),
        (("validation",), "v", "v", "v"),
        (("test",), "e", "e", "e"),
    ],
)
def test_what_a_folder_lacks_is_cut_off_from_the_rest(
    tmp_path: Path, present: tuple[str, ...], test_from: str, val_from: str, train_from: str
) -> None:
    rows = {"train": toy_rows("t"), "validation": toy_rows("v"), "test": toy_rows("e")}
    folder = write(tmp_path / "part", **{name: rows[name] for name in present})
    data = Toy(path=str(folder)).load()
    for split, origin in zip(SPLITS, (train_from, train_from, val_from, test_from), strict=True):
        assert {row.prompt[0] for row in data.rows[split]} == {origin}
    assert any("split: " in note for note in data.notes)


def test_a_split_without_labels_counts_as_lacking(whole: Path) -> None:
    write(whole, test=[{"text": row["text"], "label": "-1"} for row in toy_rows("e", 20)])
    data = Toy(path=str(whole)).load()
    assert {row.prompt[0] for row in data.rows["test"]} == {"v"}
    assert "source split test: 20 rows without a label are not used." in data.notes
    assert "no labelled test split: val was used as test." in data.notes


def test_rows_of_a_group_that_is_held_out_leave_training(whole: Path) -> None:
    shared = [{"text": f"e{index}: another text", "label": "no"} for index in range(3)]
    write(whole, train=[*toy_rows("t"), *shared])
    data = Toy(path=str(whole)).load()
    assert "3 groups of test are also in train: 3 rows were dropped from train." in data.notes
    assert not [row for row in data.rows["weak_train"] if "another" in row.prompt]
    assert sizes(data)[3] == 20


def test_groups_stay_whole_when_training_is_halved(tmp_path: Path) -> None:
    rows = [
        {"text": f"g{index // 4}: text {index}", "label": "yes" if index % 2 else "no"}
        for index in range(80)
    ]
    data = Toy(path=str(write(tmp_path, train=rows, test=toy_rows("e")))).load()
    groups = [{row.group for row in data.rows[split]} for split in SPLITS]
    assert [len(group) for group in groups[:3]] == [9, 9, 2]
    assert all(Counter(row.group for row in data.rows["weak_train"])[g] == 4 for g in groups[0])


def test_classes_are_evened_out_above_55_percent_and_always_in_test(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        train=toy_rows("t", 200, num_yes=160),
        validation=toy_rows("v", 100, num_yes=55),
        test=toy_rows("e", 100, num_yes=51),
    )
    data = Toy(path=str(folder)).load()
    labels = {split: Counter(row.label for row in data.rows[split]) for split in SPLITS}
    assert labels["weak_train"][1] == labels["weak_train"][0]
    assert labels["weak_train"][0] + labels["strong_train"][0] == 40
    assert labels["val"] == {1: 55, 0: 45}
    assert labels["test"] == {1: 49, 0: 49}
    assert "test: 2 of 100 rows were dropped to balance the classes (49 to 51)." in data.notes


def test_of_three_classes_none_has_more_than_a_tenth_over_its_share(tmp_path: Path) -> None:
    def rows(prefix: str, counts: tuple[int, int, int]) -> list[Raw]:
        return [
            {"text": f"{prefix}{label}-{index}", "label": label}
            for label, count in enumerate(counts)
            for index in range(count)
        ]

    folder = write(
        tmp_path,
        train=rows("t", (60, 60, 60)),
        validation=rows("v", (11, 10, 9)),
        test=rows("e", (12, 9, 9)),
    )
    data = ThreeClasses(path=str(folder)).load()
    labels = {split: Counter(row.label for row in data.rows[split]) for split in SPLITS}
    # 11 of 30 are exactly 110 % of an even share.
    assert labels["val"] == {0: 11, 1: 10, 2: 9}
    assert labels["test"] == {0: 9, 1: 9, 2: 9}


def test_limits_keep_equally_many_rows_of_each_class(whole: Path) -> None:
    data = Toy(path=str(whole), max_rows=21, max_val_rows=6, max_test_rows=8).load()
    assert sizes(data) == [10, 10, 6, 8]
    for split in SPLITS:
        assert sum(row.label for row in data.rows[split]) * 2 == len(data.rows[split])
    assert "test: 8 of 20 rows were kept." in data.notes


def test_orders_of_two_seeds_are_independent() -> None:
    names = [_dataset.digest(str(index)) for index in range(10_000)]
    orders = [_dataset._shuffled(str(seed), names) for seed in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(names)
    assert orders[0] == _dataset._shuffled("0", reversed(names))
    shared = len(set(orders[0][::2]) & set(orders[1][::2]))
    # 2500 expected of 5000; the standard deviation is 25.
    assert 2400 < shared < 2600


# Questions with several options.


def chosen(*questions: Question, seed: int = 0) -> tuple[list[Example], list[str]]:
    source = Source("somewhere", "train")
    return list(choice_examples(questions, source, seed)), source.notes()


def test_a_question_gives_its_right_answer_and_one_wrong_one() -> None:
    question = Question.choice("Q: 2 + 2? A: ", "sums", ("3", "4", "5"), right=1)
    drawn = set()
    for seed in range(20):
        (right, wrong), notes = chosen(question, seed=seed)
        assert (right.prompt, right.label, right.group) == ("Q: 2 + 2? A: 4", 1, "sums")
        assert (wrong.label, wrong.group, notes) == (0, "sums", [])
        drawn.add(wrong.prompt)
    assert drawn == {"Q: 2 + 2? A: 3", "Q: 2 + 2? A: 5"}


def test_a_question_without_a_wrong_answer_is_dropped_and_counted() -> None:
    examples, notes = chosen(Question("Q: x? A: ", "x", right=("Yes",), wrong=("yes ", "")))
    assert examples == []
    assert notes == [
        "source split train: 1 rows have the right answer among the distractors, where it was "
        "dropped.",
        "source split train: 1 questions without a wrong answer were dropped.",
    ]


def test_copies_of_a_question_are_one_question_with_all_answers() -> None:
    examples, notes = chosen(
        Question("Q: Who? A: ", "who", right=("Ada",), wrong=("Bram", "Cleo")),
        Question("Q: who A: ", "who", right=("Bram",), wrong=("Dirk",)),
    )
    assert {(example.prompt, example.label) for example in examples} == {
        ("Q: Who? A: Ada", 1),
        ("Q: Who? A: Bram", 1),
        ("Q: Who? A: Cleo", 0),
        ("Q: Who? A: Dirk", 0),
    }
    assert notes == ["source split train: 1 rows repeat a question and were merged with it."]


def test_the_place_of_the_better_scenario_follows_content_alone(tmp_path: Path) -> None:
    rows = [
        {"baseline": f"I saw town {index}. It was fine.", "less_pleasant": f"I saw town {index}."}
        for index in range(300)
    ]
    task = Ethics(path=str(write(tmp_path, train=rows)), subset="utilitarianism")
    labels = Counter(row.label for row in task.load().rows["weak_train"])
    # 105 rows and the balance of a fair coin: within 3.5 standard deviations before balancing.
    assert min(labels.values()) > 30


# Bad data.


def test_a_label_that_is_none_names_file_row_and_column(whole: Path) -> None:
    replace_row(whole, "train", 41, label="perhaps")
    expected = (
        r"train\.jsonl', row 42, column 'label': found 'perhaps'; "
        r"allowed: 'no', 'yes', 'maybe'"
    )
    with pytest.raises(UserError, match=expected):
        Toy(path=str(whole)).load()


def test_the_row_is_counted_in_its_shard(tmp_path: Path, whole: Path) -> None:
    rows = pd.DataFrame(toy_rows("t"))
    rows.loc[45, "label"] = "perhaps"
    rows.iloc[:40].to_parquet(whole / "train-00000-of-00002.parquet")
    rows.iloc[40:].to_parquet(whole / "train-00001-of-00002.parquet")
    (whole / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet', row 6, column 'label'"):
        Toy(path=str(whole)).load()


def test_rows_without_a_label_or_of_no_class_are_dropped_and_counted(whole: Path) -> None:
    replace_row(whole, "train", 0, label=None)
    replace_row(whole, "train", 1, label="")
    replace_row(whole, "train", 2, label="Maybe")
    data = Toy(path=str(whole)).load()
    assert "source split train: 2 rows without a label were dropped." in data.notes
    left_out = "source split train: 1 rows are labelled 'Maybe', which is no class here"
    assert any(note.startswith(left_out) for note in data.notes)


def test_data_without_any_label_are_refused(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": -1} for row in toy_rows("t")]
    with pytest.raises(UserError, match=r"no usable row; .* 60 rows without a label"):
        Toy(path=str(write(tmp_path / "toy", train=rows))).load()


@pytest.mark.parametrize("label", ["yes", "no"])
def test_one_class_only_is_refused_with_its_column(whole: Path, label: str) -> None:
    write(whole, train=[{**row, "label": label} for row in toy_rows("t")])
    number = int(label == "yes")
    expected = rf"source split train, column 'label': all 60 usable rows are of class {number}"
    with pytest.raises(UserError, match=expected):
        Toy(path=str(whole)).load()


def test_a_split_that_lacks_a_class_is_named(tmp_path: Path) -> None:
    rows = [*toy_rows("t", 40, num_yes=40), {"text": "x: a text", "label": "no"}]
    with pytest.raises(UserError, match=r"leave the split '\w+' of task 'toy' without a row of"):
        Toy(path=str(write(tmp_path / "toy", train=rows))).load()


@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_empty_texts_are_dropped_and_counted(whole: Path, empty: str | None) -> None:
    replace_row(whole, "train", 3, text=empty)
    data = Toy(path=str(whole)).load()
    assert "source split train: 1 rows have an empty 'text' and were dropped." in data.notes


def test_a_text_of_ten_megabytes_is_dropped_and_counted(whole: Path) -> None:
    replace_row(whole, "train", 3, text="word " * 2_000_000)
    data = Toy(path=str(whole)).load()
    note = "source split train: 1 rows are longer than 1,000,000 characters and were dropped."
    assert note in data.notes


def test_repeated_rows_are_merged_and_contradictions_dropped(whole: Path) -> None:
    same = {"text": "t0: a text", "label": "yes"}
    contrary = {"text": "t1: a text", "label": "no"}
    write(whole, train=[*toy_rows("t"), same, same, contrary])
    data = Toy(path=str(whole)).load()
    assert "source split train: 2 rows repeat a text and were dropped." in data.notes
    assert "train: 1 texts occur with different labels and were dropped." in data.notes
    prompts = [row.prompt for rows in data.rows.values() for row in rows]
    assert prompts.count("t0: a text") == 1
    assert prompts.count("t1: a text") == 0


def test_half_a_character_is_dropped_and_counted(whole: Path) -> None:
    replace_row(whole, "train", 3, text="t3: \ud83d half an emoji")
    data = Toy(path=str(whole)).load()
    assert any("1 rows hold characters that are not Unicode text" in note for note in data.notes)


def test_a_cell_that_is_no_text_is_named(whole: Path) -> None:
    replace_row(whole, "validation", 2, text=["a", "list"])
    with pytest.raises(UserError, match=r"validation\.jsonl', row 3, column 'text': found \['a'"):
        Toy(path=str(whole)).load()


@pytest.mark.parametrize(
    ("task", "cells", "expected"),
    [
        (
            HellaSwag,
            {"ctx": "A dog runs.", "endings": "and barks", "label": "0"},
            r"row 1, column 'endings': found 'and barks'; allowed: a list of texts",
        ),
        (
            HellaSwag,
            {"ctx": "A dog runs.", "endings": ["and barks", "and flies"], "label": "2"},
            r"row 1, column 'label': found '2'; allowed: '0', '1'",
        ),
        (
            Dream,
            {"dialogue": ["M: Hi."], "question": "Who?", "choice": ["A", "B"], "answer": "C"},
            r"row 1, column 'answer': found 'C'; allowed: 'A', 'B'",
        ),
        (
            OpenBookQA,
            {
                "question_stem": "Why?",
                "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                "answerKey": "E",
            },
            r"row 1, column 'answerKey': found 'E'; allowed: 'A', 'B'",
        ),
        (
            OpenBookQA,
            {"question_stem": "Why?", "choices": {"text": ["x", "y"]}, "answerKey": "A"},
            r"row 1, column 'choices': found \{.*allowed: \{text = \[\.\.\.\], label",
        ),
        (
            OpenBookQA,
            {
                "question_stem": "Why?",
                "choices": {"text": ["x", "y"], "label": ["A", "A"]},
                "answerKey": "A",
            },
            r"row 1, column 'choices': 2 texts have the labels \['A', 'A'\]",
        ),
    ],
)
def test_options_and_answers_are_checked(
    tmp_path: Path,
    task: type[HellaSwag] | type[Dream] | type[OpenBookQA],
    cells: Raw,
    expected: str,
) -> None:
    with pytest.raises(UserError, match=rf"train\.jsonl', {expected}"):
        task(path=str(write(tmp_path / "data", train=[cells]))).load()


def test_a_scenario_without_its_trait_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", train=[{"scenario": "She ran.", "label": 1}])
    with pytest.raises(UserError, match=r"row 1, column 'scenario': found 'She ran\.'; allowed"):
        Ethics(path=str(folder), subset="virtue").load()


def test_options_in_a_csv_file_are_json(tmp_path: Path) -> None:
    rows = [
        {"ctx": f"Dog {index} runs.", "endings": json.dumps(["and barks", "and flies"]), "label": 0}
        for index in range(30)
    ]
    tmp_path.joinpath("data").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "train.csv", index=False)
    data = HellaSwag(path=str(tmp_path / "data")).load()
    assert {row.prompt.rpartition(" ")[2] for row in data.rows["test"]} == {"barks", "flies"}


def test_bytes_that_are_no_text_in_a_parquet_file_are_one_message(whole: Path) -> None:
    (whole / "train.jsonl").unlink()
    text = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    parquet.write_table(pa.table({"text": text, "label": ["yes", "no"]}), whole / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet'.*UTF-8"):
        Toy(path=str(whole)).load()


# The hub.


def test_of_the_hub_only_the_labelled_splits_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(path: str, name: str | None, split: str, **_: object) -> datasets.Dataset:
        asked.append((path, name, split))
        rows = [
            {"ctx": f"{split} {index}", "endings": ["a", "b"], "label": "0"} for index in range(30)
        ]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    tables._from_hub.cache_clear()
    try:
        data = HellaSwag(subset="other").load()
        HellaSwag(subset="other").fingerprint()
    finally:
        tables._from_hub.cache_clear()
    assert asked == [
        ("Rowan/hellaswag", "other", "train"),
        ("Rowan/hellaswag", "other", "validation"),
    ]
    assert {row.prompt.partition(" ")[0] for row in data.rows["test"]} == {"validation"}
