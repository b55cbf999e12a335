"""The user's own table, and a task of the user's own class."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.w2s.tasks.parity import Parity
from w2s.errors import UserError
from w2s.spec import parse
from w2s.tasks._source import Source
from w2s.tasks.base import Task
from w2s.tasks.table import Table
from w2s.types import SPLITS, Row

MOODS = ("sad", "glad", "angry")


def write(folder: Path, rows: list[dict[str, Any]], name: str = "mine.jsonl") -> Path:
    file = folder / name
    if file.suffix == ".csv":
        pd.DataFrame(rows).to_csv(file, index=False)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def moods(number: int = 150) -> list[dict[str, Any]]:
    return [
        {
            "text": f"Letter {row} says something.",
            "town": f"Town {row // 3}",
            "mood": MOODS[row % 3],
        }
        for row in range(number)
    ]


def table(path: Path, **fields: Any) -> Table:
    given = {"kind": "table", "path": str(path), "prompt": "{text}", "label": "mood", **fields}
    task = parse(Task, {name: value for name, value in given.items() if value is not None})
    assert isinstance(task, Table)
    return task


def questions(path: Path, **fields: Any) -> Table:
    given = {"prompt": "{question} {choice}", "choices": ["a", "b", "c"], "answer": "key", **fields}
    return table(path, label=None, **given)


def all_rows(task: Table) -> list[Row]:
    data = task.load()
    return [row for split in SPLITS for row in data.rows[split]]


def test_a_template_and_a_label_column_make_rows(tmp_path: Path) -> None:
    file = write(tmp_path, moods())
    task = table(file, prompt="{town}. {text}\nMood?", classes=list(MOODS))
    assert task.num_classes == 3
    assert task.title == "table-mine"
    for row in all_rows(task):
        number = int(row.prompt.split("Letter ")[1].split()[0])
        assert row.prompt == f"Town {number // 3}. Letter {number} says something.\nMood?"
        assert MOODS[row.label] == MOODS[number % 3]


def test_test_rows_are_balanced_over_all_classes(tmp_path: Path) -> None:
    rows = [{"text": f"Text {row}", "mood": MOODS[(row % 10) // 4]} for row in range(300)]
    data = table(write(tmp_path, rows)).load()
    counts = {
        split: sorted(Counter(row.label for row in data.rows[split]).values()) for split in SPLITS
    }
    assert all(3 * of_classes[-1] <= 1.1 * sum(of_classes) for of_classes in counts.values())
    assert counts["test"][0] == counts["test"][2]


def test_found_classes_are_in_order_of_size_or_letter(tmp_path: Path) -> None:
    file = write(tmp_path, moods())
    assert list(table(file)._classes) == ["angry", "glad", "sad"]
    numbered = [{"text": f"Text {row}", "mood": (10, 9, 2)[row % 3]} for row in range(30)]
    assert list(table(write(tmp_path, numbered, "numbers.csv"))._classes) == ["2", "9", "10"]


def test_changed_data_have_their_own_classes(tmp_path: Path) -> None:
    assert table(write(tmp_path, moods())).num_classes == 3
    assert table(write(tmp_path, moods()[:2] * 20)).num_classes == 2


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ((True, False), [False, True]),
        ((1, 0), [0, 1]),
        ((1.0, 0.0), ["0", "1"]),
        (("Y", "n"), "nY"),
    ],
)
def test_classes_may_be_numbers_booleans_or_text(
    tmp_path: Path, values: tuple[Any, Any], classes: Any
) -> None:
    rows = [{"text": f"Text {row}", "mood": values[row % 2]} for row in range(60)]
    for row in all_rows(table(write(tmp_path, rows), classes=list(classes))):
        assert row.label == 1 - int(row.prompt.removeprefix("Text ")) % 2


def test_options_in_columns_or_in_a_list_make_right_and_wrong_rows(tmp_path: Path) -> None:
    flat = [
        {
            "question": f"Q{row}?",
            "a": "oak",
            "b": "elm",
            "c": "fir",
            "key": ("oak", "elm", "fir")[row % 3],
        }
        for row in range(40)
    ]
    listed = [
        {"question": row["question"], "options": ["oak", "elm", "fir"], "key": row["key"]}
        for row in flat
    ]
    rows = all_rows(questions(write(tmp_path, flat)))
    assert rows == all_rows(questions(write(tmp_path, listed, "listed.jsonl"), choices="options"))
    right = {f"{row['question']} {row['key']}" for row in flat}
    assert all((row.prompt in right) == bool(row.label) for row in rows)
    assert sum(row.label for row in rows) * 2 == len(rows)


@pytest.mark.parametrize(
    ("answer_is", "answer"), [("text", "Elm"), ("letter", "b"), ("index", 1), ("number", "2")]
)
def test_an_answer_is_a_text_a_letter_an_index_or_a_number(
    tmp_path: Path, answer_is: str, answer: Any
) -> None:
    row = {"question": "Q?", "a": "oak", "b": "elm", "c": "fir", "key": answer}
    file = write(tmp_path, [row])
    task = questions(file, answer_is=answer_is)
    found = list(task.examples(pd.DataFrame([row]), Source(str(file), None)))
    assert [example.prompt for example in found if example.label == 1] == ["Q? elm"]


def test_an_answer_that_is_no_option_is_named_with_row_and_column(tmp_path: Path) -> None:
    row = {"question": "Q?", "a": "oak", "b": "elm", "c": "fir", "key": "oak"}
    file = write(tmp_path, [row, {**row, "key": 3}])
    with pytest.raises(
        UserError, match=r"row 2, column 'key': found 3; allowed: 'oak', 'elm', 'fir'"
    ):
        questions(file).load()
    with pytest.raises(
        UserError, match=r"row 1, column 'key': found 'oak'; allowed: '0', '1', '2'"
    ):
        questions(file, answer_is="index").load()


def test_rows_of_one_group_stay_together(tmp_path: Path) -> None:
    task = table(write(tmp_path, moods()), group="{town}", prompt="{text} ({town})")
    data = task.load()
    towns = [{row.prompt.partition("(")[2] for row in data.rows[split]} for split in SPLITS]
    assert sum(map(len, towns)) == len(set.union(*towns))


def test_splits_have_the_names_that_are_given(tmp_path: Path) -> None:
    rows = moods(120)
    for name, part in (("one", rows[:60]), ("two", rows[60:90]), ("three", rows[90:])):
        write(tmp_path, part, f"{name}.csv")
    task = table(tmp_path, splits={"train": ["one"], "val": ["two"], "test": ["three"]})
    data = task.load()
    numbers = {split: {int(row.prompt.split()[1]) for row in data.rows[split]} for split in SPLITS}
    assert numbers["weak_train"] | numbers["strong_train"] == set(range(60))
    assert numbers["val"] == set(range(60, 90))
    assert numbers["test"] == set(range(90, 120))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"label": None}, "give either `label` or `choices`"),
        ({"choices": ["a", "b"]}, "give either `label` or `choices`"),
        ({"answer": "key"}, "`choices` and `answer` belong together"),
        ({"label": None, "choices": "options"}, "`choices` and `answer` belong together"),
        ({"prompt": "{text} {mood}"}, "shows the column 'mood', which is the ground truth"),
        ({"group": "{mood}"}, "shows the column 'mood', which is the ground truth"),
        ({"prompt": "What?"}, "the prompt has no {column}"),
        ({"prompt": "{text"}, "prompt: expected '}' before end of string; found '{text'"),
        ({"prompt": "{text!r}"}, "prompt: braces hold the name of a column and nothing else"),
        ({"prompt": "{}"}, "prompt: braces hold the name of a column and nothing else"),
        ({"classes": ["sad"]}, "`classes` needs two or more values"),
        ({"classes": ["sad", "Sad"]}, "differ in more than case; found 'sad', 'Sad'"),
        (
            {"label": None, "choices": "options", "answer": "key"},
            "with `choices` the prompt must end with {choice}; found '{text}'",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_when_it_is_parsed(
    fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError) as caught:
        table(Path("mine.csv"), **fields)
    assert problem in str(caught.value)


def test_an_unknown_placeholder_is_named_with_the_columns_that_are_there(tmp_path: Path) -> None:
    file = write(tmp_path, moods())
    with pytest.raises(UserError, match=r"mine.jsonl'?: no column 'tone'; found: text, town, mood"):
        table(file, prompt="{tone}: {text}").load()


def test_a_label_outside_the_classes_is_named_with_row_and_column(tmp_path: Path) -> None:
    file = write(tmp_path, moods())
    with pytest.raises(
        UserError,
        match=r"mine.jsonl', row 3, column 'mood': found 'angry'; allowed: 'sad', 'glad'",
    ):
        table(file, classes=["sad", "glad"]).load()


def test_one_class_or_too_many_are_refused_with_the_column(tmp_path: Path) -> None:
    one = write(tmp_path, [{**row, "mood": "sad"} for row in moods()])
    with pytest.raises(UserError, match=r"column 'mood': 1 different labels \('sad'\)"):
        table(one).load()
    with pytest.raises(UserError, match=r"column 'mood': all 150 usable rows are of class 0"):
        table(one, classes=["sad", "glad"]).load()
    many = write(tmp_path, [{**row, "mood": f"mood {n}"} for n, row in enumerate(moods())])
    with pytest.raises(UserError, match=r"150 different labels \(.*list them in `classes`"):
        table(many).load()


def test_empty_texts_and_missing_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [*moods(), {"text": " ", "town": "", "mood": "sad"}, {"text": "x", "mood": ""}]
    notes = table(write(tmp_path, rows)).load().notes
    assert "source file: 1 rows have an empty 'text' and were dropped." in notes
    assert any("1 rows without a label were dropped" in note for note in notes)


def test_a_class_of_ones_own_is_named_by_module_and_class(tmp_path: Path) -> None:
    file = write(tmp_path, [{"number": number} for number in range(100)], "numbers.csv")
    task = parse(Task, {"kind": "tests.w2s.tasks.parity:Parity", "path": str(file)})
    assert isinstance(task, Parity)
    assert parse(Task, task.model_dump()) == task
    data = task.load()
    for split in SPLITS:
        for row in data.rows[split]:
            assert row.label == int(row.prompt.split()[1]) % 2


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="cannot load task 'no_such_module:MyTask'"):
        parse(Task, {"kind": "no_such_module:MyTask"})
