from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from w2s.errors import UserError
from w2s.spec import parse
from w2s.tasks._source import Example, Source
from w2s.tasks.base import Task
from w2s.tasks.toxicity import PUBLISHED, Toxicity

SOURCE = Path(__file__).parents[2] / "fixtures" / "toxicity" / "toxigen"


def examples(rows: list[dict[str, Any]], **fields: Any) -> list[Example]:
    task = Toxicity(path=str(SOURCE), **fields)
    return list(task.examples(pd.DataFrame(rows), Source(str(SOURCE), "train")))


def scored(human: Any, machine: Any, text: str = "A text") -> dict[str, Any]:
    return {"text": text, "toxicity_human": human, "toxicity_ai": machine}


def test_toxigen_is_toxic_above_five_and_a_half() -> None:
    rows = [scored(3.0, 2.5), scored(3.0, 2.6), scored("5", "1"), scored(1, 1)]
    assert [example.label for example in examples(rows)] == [0, 1, 1, 0]


def test_the_repr_of_bytes_becomes_text() -> None:
    texts = [r"b'a \xc3\xa9clair'", 'b"it\'s"', "b'unfinished", "plain b'text'"]
    found = examples([scored(1, 1, text) for text in texts])
    assert [example.prompt.partition("\n")[0] for example in found] == [
        "Text: a éclair",
        "Text: it's",
        "Text: b'unfinished",
        "Text: plain b'text'",
    ]


@pytest.mark.parametrize("score", [None, "high", float("nan")])
def test_a_score_that_is_no_number_is_named_with_row_and_column(score: object) -> None:
    with pytest.raises(UserError, match=r"row 2, column 'toxicity_ai': found .*allowed: a number"):
        examples([scored(1, 1), scored(1, score)])


def test_hate_and_offense_are_one_class() -> None:
    rows = [{"tweet": f"tweet {label}", "class": label} for label in (0, 1, 2)]
    found = examples(rows, dataset="hate_speech_offensive")
    assert [example.label for example in found] == [1, 1, 0]


def test_half_of_the_raters_make_a_comment_toxic() -> None:
    rows = [{"text": f"comment {share}", "toxicity": share} for share in (0.49, 0.5, 1.0)]
    assert [example.label for example in examples(rows, dataset="civil_comments")] == [0, 1, 1]


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_the_name_of_a_data_set_is_enough_to_find_it(dataset: str) -> None:
    task = parse(Task, {"kind": "toxicity", "dataset": dataset})
    assert isinstance(task, Toxicity)
    assert (task.path, task.subset) == (PUBLISHED[dataset].path, PUBLISHED[dataset].subset)
    assert task.title == f"toxicity-{dataset}"


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset: input should be 'toxigen', .*found 'jigsaw'"):
        parse(Task, {"kind": "toxicity", "dataset": "jigsaw"})
