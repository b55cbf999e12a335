import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from w2s.errors import UserError
from w2s.spec import parse
from w2s.tasks._source import Example, Source
from w2s.tasks.base import Task
from w2s.tasks.legal import UNFAIR, Legal
from w2s.types import SPLITS

SOURCE = Path(__file__).parents[2] / "fixtures" / "legal"


def examples(rows: list[dict[str, Any]], **fields: Any) -> list[Example]:
    task = Legal(path=str(SOURCE), **fields)
    source = Source(str(SOURCE), None, task.subset)
    return list(task.examples(pd.DataFrame(rows), source))


def test_a_row_is_the_text_and_then_the_question_of_its_set() -> None:
    (example,) = examples([{"text": "we affirm.", "answer": "No"}])
    assert example.prompt == (
        "Sentence: we affirm.\nQuestion: Does this sentence overrule an earlier decision?"
    )
    assert example.label == 0


def test_any_unfair_term_is_class_1() -> None:
    rows = [{"text": f"term {name}", "answer": name.capitalize()} for name in ("other", *UNFAIR)]
    found = examples(rows, subset="unfair_tos")
    assert [example.label for example in found] == [0, *[1] * 8]


def test_a_row_can_bring_its_own_question() -> None:
    row = {"question": "do you sell {it}?", "text": "we never do.", "answer": "Relevant"}
    (example,) = examples([row], subset="privacy_policy_qa")
    assert example.prompt.endswith(
        "Question: Does the clause answer this question: do you sell {it}?"
    )


def test_a_set_of_unknown_question_needs_one() -> None:
    with pytest.raises(
        UserError, match=r"no question is known for the set 'new'.*question = '...'"
    ):
        parse(Task, {"kind": "legal", "subset": "new"})
    row = {"text": "a text", "question": "why?", "answer": "Yes"}
    asked = Legal(path=str(SOURCE), subset="new", question="Is it so?")
    assert asked.columns == ("text", "answer")
    (example,) = examples([row], subset="new", question="Is it so: {question}")
    assert example.prompt == "Text: a text\nQuestion: Is it so: why?"


def test_train_and_test_rows_of_a_set_are_pooled_and_cut(tmp_path: Path) -> None:
    lines = (SOURCE / "overruling.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:4]))
    (tmp_path / "test.jsonl").write_text("".join(lines[4:]))
    whole = Legal(path=str(SOURCE)).load()
    assert Legal(path=str(tmp_path)).load().rows == whole.rows
    assert sum(len(whole.rows[split]) for split in SPLITS) > 30


def test_another_answer_is_named_with_file_row_and_column(tmp_path: Path) -> None:
    file = tmp_path / "overruling.jsonl"
    rows = [{"text": "a", "answer": "Yes"}, {"text": "b", "answer": "Perhaps"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"overruling.jsonl', row 2, column 'answer'.*'Perhaps'"):
        Legal(path=str(tmp_path)).load()
