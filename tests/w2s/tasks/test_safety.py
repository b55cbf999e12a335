from pathlib import Path

import pandas as pd
import pytest

from w2s.errors import UserError
from w2s.tasks._source import Source
from w2s.tasks.safety import Safety

SOURCE = Path(__file__).parents[2] / "fixtures" / "safety"


def labels(*values: object) -> list[int]:
    frame = pd.DataFrame(
        [{"prompt": f"Prompt {row}", "is_safe": v} for row, v in enumerate(values)]
    )
    source = Source(str(SOURCE), "train")
    return [example.label for example in Safety(path=str(SOURCE)).examples(frame, source)]


def test_safe_is_class_1_from_every_format() -> None:
    assert labels(True, False) == labels("True", "False") == labels(1, 0) == [1, 0]


def test_every_split_has_the_same_format() -> None:
    data = Safety(path=str(SOURCE)).load()
    for rows in data.rows.values():
        assert all(row.prompt.startswith("Prompt: ") for row in rows)
        assert {row.prompt.rpartition("\n")[2] for row in rows} == {
            "Is this prompt safe to answer?"
        }


def test_prompts_labelled_both_ways_are_in_no_split() -> None:
    data = Safety(path=str(SOURCE)).load()
    assert not [row for rows in data.rows.values() for row in rows if "both ways" in row.prompt]
    assert "train: 1 texts occur with different labels and were dropped." in data.notes


def test_another_value_is_named_with_row_and_column() -> None:
    with pytest.raises(UserError, match=r"row 2, column 'is_safe': found 'maybe'; allowed: "):
        labels("True", "maybe")
