import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset

from w2s import tables
from w2s.errors import UserError
from w2s.tasks._source import Example, Source
from w2s.tasks.preferences import Preferences
from w2s.types import Split

SOURCE = Path(__file__).parents[2] / "fixtures" / "preferences"


def pair(question: str, chosen: str, rejected: str) -> dict[str, Any]:
    asked = f"\n\nHuman: {question}\n\nAssistant: "
    return {"chosen": asked + chosen, "rejected": asked + rejected}


def examples(rows: list[dict[str, Any]], **fields: Any) -> tuple[list[Example], Source]:
    source = Source("pairs.jsonl", None)
    task = Preferences(path="pairs.jsonl", **fields)
    return list(task.examples(pd.DataFrame(rows), source)), source


def only(rows: list[dict[str, Any]], **fields: Any) -> Example:
    (example,), _ = examples(rows, **fields)
    return example


def test_a_row_is_two_whole_texts_and_the_place_of_the_chosen_one() -> None:
    example = only([pair("Which knot holds?", "A bowline.", "Any.")])
    chosen = "Human: Which knot holds?\n\nAssistant: A bowline."
    rejected = "Human: Which knot holds?\n\nAssistant: Any."
    assert set(example.options) == {chosen, rejected}
    assert example.options[example.label] == chosen


def test_the_question_is_read_once_with_both_replies_in_the_order_of_the_options() -> None:
    example = only([pair("Which knot holds?", "A bowline.", "Any.")])
    first, second = (option.rpartition("Assistant: ")[2] for option in example.options)
    assert example.prompt == (
        f"Human: Which knot holds?\n\nReply A: {first}\n\nReply B: {second}\n\n"
        "Which reply is better, A or B?"
    )


def test_the_order_says_nothing_about_which_reply_was_chosen() -> None:
    rows = [pair(f"Question {number}?", "One.", "Two.") for number in range(200)]
    found, _ = examples(rows)
    swapped, _ = examples([{"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows])
    assert [example.options for example in found] == [example.options for example in swapped]
    assert [example.label for example in found] == [1 - example.label for example in swapped]
    # 200 fair coins: 60 to 140 is six standard deviations to either side.
    assert 60 < sum(example.label for example in found) < 140


def test_what_is_no_pair_is_dropped_and_counted() -> None:
    found, source = examples(
        [
            pair("Tea or coffee?", "Both.", " Both. "),
            pair("Say nothing.", "", "Something."),
            {"chosen": "\n\nHuman: One\n\nAssistant: a", "rejected": "\n\nHuman: Two"},
        ]
    )
    assert found == []
    assert source.notes() == [
        "source file: 1 rows have the same reply twice and were dropped.",
        "source file: 1 rows have an empty reply and were dropped.",
        "source file: 1 rows share no context and were dropped.",
    ]


def test_replies_may_begin_alike_and_share_turns() -> None:
    before = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How tall is a fir?\n\nAssistant: "
    example = only([{"chosen": before + "Tall enough.", "rejected": before + "Tall."}])
    assert example.options[example.label].endswith("Assistant: Tall enough.")
    assert example.prompt.startswith("Human: Hi\n\nAssistant: Hello\n\nHuman: How tall is a fir?\n")


def test_a_longer_conversation_stays_with_the_one_that_begins_like_it() -> None:
    short = pair("How tall is a fir?", "Tall.", "Look it up.")
    long = {
        name: f"\n\nHuman: how tall is a fir\n\nAssistant: Tall.\n\nHuman: How?\n\nAssistant: {end}"
        for name, end in (("chosen", "Sixty metres."), ("rejected", "Very."))
    }
    found, _ = examples([short, long])
    assert len({example.group for example in found}) == 1


def test_a_pair_that_people_judged_both_ways_is_dropped(tmp_path: Path) -> None:
    rows = [pair(f"Question {number}?", "One.", "Two.") for number in range(60)]
    odd = pair("Asked twice?", "One.", "Two.")
    rows += [odd, {"chosen": odd["rejected"], "rejected": odd["chosen"]}]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Preferences(path=str(file)).load()
    assert not [row for rows in data.rows.values() for row in rows if "twice" in row.prompt]
    assert any("1 texts occur with different labels" in note for note in data.notes)


def test_the_prompt_can_be_a_column_of_its_own() -> None:
    row = {"question": "Which knot holds?", "better": "A bowline.", "worse": "Any."}
    example = only([row], prompt="question", chosen="better", rejected="worse")
    assert example == only([pair("Which knot holds?", "A bowline.", "Any.")])


def test_lists_of_messages_are_transcripts() -> None:
    asked = [{"role": "user", "content": "Which knot holds?"}]
    row = {
        "chosen": [*asked, {"role": "assistant", "content": "A bowline."}],
        "rejected": [*asked, {"role": "assistant", "content": "Any."}],
    }
    assert only([row]) == only([pair("Which knot holds?", "A bowline.", "Any.")])


def test_an_unknown_role_is_named_with_row_and_column() -> None:
    turn = [{"role": "narrator", "content": "Once upon a time"}]
    source = Source(str(SOURCE), "train")
    frame = pd.DataFrame([{"chosen": turn, "rejected": "text"}])
    with pytest.raises(UserError, match=r"train.jsonl', row 1, column 'chosen'.*narrator"):
        list(Preferences(path=str(SOURCE)).examples(frame, source))


def test_splits_may_have_any_names() -> None:
    folder = SOURCE.parent / "preferences_single_turn"
    task = Preferences.model_validate(
        {
            "path": str(folder),
            "splits": {"train": ["train_gt", "train_w2s"], "val": [], "test": ["test"]},
        }
    )
    data = task.load()

    def share(split: Split, *files: str) -> float:
        """Share of the questions of a split that are in some of these files."""
        text = "".join((folder / f"{file}.jsonl").read_text() for file in files)
        questions = [row.prompt.partition("\n")[0] for row in data.rows[split]]
        return sum(question in text for question in questions) / len(questions)

    assert share("test", "test") == 1
    for split in ("weak_train", "strong_train", "val"):
        assert share(split, "train_gt", "train_w2s") == 1
        assert share(split, "test") == 0
    assert 0 < share("weak_train", "train_gt") < 1


def test_a_subset_that_is_no_configuration_is_a_folder_of_the_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of Anthropic's HH, whose parts are folders."""

    def load_dataset(path: str, name: str | None = None, data_dir: str | None = None, **_: Any):
        if name is not None:
            raise ValueError(f"BuilderConfig {name!r} not found. Available: ['default']")
        return Dataset.from_list([pair(f"From {data_dir}?", "One.", "Two.")])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    frame = tables.read("made-up/pairs", "train", ("chosen",), subset="harmless-base")
    assert "From harmless-base?" in frame["chosen"].iat[0]
