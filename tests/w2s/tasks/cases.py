"""One case for each kind of task (and each subset of a family): what the contract test runs over.

A case names the task, its fixture (a folder or file in the columns of the hub, rows made up), the
real data sets it can read (folders or files under `W2S_DATA`), and how the label of a raw row is
moved on to the next value, so that a test can see whether a prompt knows its label.

    python -m tests.w2s.tasks.cases    # writes prompts.golden.txt anew
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chess
import pandas as pd

from w2s import tables
from w2s.spec import parse
from w2s.tasks._dataset import DatasetTask
from w2s.tasks._source import Example, Source
from w2s.tasks.base import Task
from w2s.types import SPLITS, Row

FIXTURES = Path(__file__).parents[2] / "fixtures"
GOLDEN = Path(__file__).parent / "prompts.golden.txt"

Raw = dict[str, Any]
"""A row of a source, by column."""


@dataclass(frozen=True)
class Case:
    """One kind of task with data."""

    kind: str
    relabel: Callable[[Raw], Raw]
    """The row with the next label: as often as there are labels, and it is the same again."""
    real: tuple[str, ...] = ()
    """Real data sets, below the folder that `W2S_DATA` names."""
    fields: Raw = field(default_factory=dict)
    """Fields of the task."""
    fixture: str = ""
    """Folder or file of the fixture, if it is not called like the kind."""
    num_labels: int = 2
    """How often `relabel` changes the row before it is the same again."""
    title: str = ""
    """How the case is called, if not by kind and fields."""

    @property
    def name(self) -> str:
        """Title, or kind and fields."""
        return self.title or "-".join((self.kind, *map(str, self.fields.values())))

    @property
    def path(self) -> Path:
        """Where the fixture is."""
        return FIXTURES / (self.fixture or self.kind)

    def task(self, path: Path | None = None, **fields: Any) -> DatasetTask:
        """The task on the fixture, or on other data."""
        given = {"kind": self.kind, "path": str(path or self.path), **self.fields, **fields}
        task = parse(Task, given)
        assert isinstance(task, DatasetTask)
        return task

    def examples(self, times: int) -> list[Example]:
        """All examples of the fixture after its labels were moved on so many times."""
        return list(self._examples(times))

    def _examples(self, times: int) -> Iterator[Example]:
        task = self.task()
        found = task._found()
        names = [""] if found is None else [name for names in found.values() for name in names]
        for name in names:
            frame = tables.read(str(self.path), name, task.columns, subset=task.subset)
            rows: list[Raw] = [
                {str(key): value for key, value in row.items()} for row in frame.to_dict("records")
            ]
            for _ in range(times):
                rows = [self.relabel(row) for row in rows]
            source = Source(str(self.path), name or None, task.subset)
            yield from task.examples(pd.DataFrame(rows), source)


def swap(column: str, *values: Any) -> Callable[[Raw], Raw]:
    """Each of the values becomes the next one; whatever else is there stays."""

    def relabel(row: Raw) -> Raw:
        if row[column] not in values:
            return row
        return {**row, column: values[(values.index(row[column]) + 1) % len(values)]}

    return relabel


def next_choice(row: Raw) -> Raw:
    choice = list(row["choice"])
    return {**row, "answer": choice[(choice.index(row["answer"]) + 1) % len(choice)]}


def next_key(row: Raw) -> Raw:
    labels = list(row["choices"]["label"])
    index = (labels.index(row["answerKey"]) + 1) % len(labels)
    return {**row, "answerKey": labels[index]}


def next_distractor(row: Raw) -> Raw:
    names = ["correct_answer", "distractor1", "distractor2", "distractor3"]
    moved = dict(zip(names, [row[name] for name in (*names[1:], names[0])], strict=True))
    return {**row, **moved}


def other_scenario(row: Raw) -> Raw:
    return {"baseline": row["less_pleasant"], "less_pleasant": row["baseline"]}


def other_reply(row: Raw) -> Raw:
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def other_move(row: Raw) -> Raw:
    """The other of the two legal moves that each made-up puzzle has becomes its solution."""
    board = chess.Board(row["FEN"])
    opponent, solution = row["Moves"].split()[:2]
    board.push_uci(opponent)
    (other,) = (move for move in board.legal_moves if move.uci() != solution)
    return {**row, "Moves": f"{opponent} {other.uci()}"}


def other_scores(row: Raw) -> Raw:
    toxic = row["toxicity_human"] + row["toxicity_ai"] > 5.5
    return {**row, "toxicity_human": 1.0 if toxic else 5.0, "toxicity_ai": 1.0}


def other_share(row: Raw) -> Raw:
    return {**row, "toxicity": 0.1 if row["toxicity"] >= 0.5 else 0.7}


BINARY = swap("label", 0, 1)
FOUR = swap("label", 0, 1, 2, 3)

CASES = [
    Case("amazon_polarity", BINARY),
    Case("anli", swap("label", 0, 1, 2), num_labels=3),
    Case("boolq", swap("answer", True, False), real=("boolq",)),
    Case("cola", BINARY, real=("glue_cola",)),
    Case("cosmos_qa", FOUR, real=("cosmos_qa", "cosmos_qa_resplit"), num_labels=4),
    Case("dream", next_choice, real=("dream",), num_labels=3),
    Case("ethics", BINARY, real=("ethics_justice",), fields={"subset": "justice"}),
    Case("ethics", BINARY, real=("ethics_deontology",), fields={"subset": "deontology"}),
    Case("ethics", BINARY, real=("ethics_virtue",), fields={"subset": "virtue"}),
    Case("ethics", BINARY, real=("ethics_commonsense",), fields={"subset": "commonsense"}),
    Case(
        "ethics",
        other_scenario,
        real=("ethics_utilitarianism",),
        fields={"subset": "utilitarianism"},
    ),
    Case(
        "hellaswag",
        swap("label", "0", "1", "2", "3"),
        real=("hellaswag", "hellaswag_resplit"),
        num_labels=4,
    ),
    Case("mc_taco", BINARY, real=("mc_taco",)),
    Case("multirc", BINARY),
    Case("openbookqa", next_key, num_labels=4),
    Case("paws", BINARY),
    Case("piqa", BINARY, real=("piqa", "piqa_resplit")),
    Case(
        "quail",
        swap("correct_answer_id", 0, 1, 2, 3),
        real=("quail", "quail_resplit"),
        num_labels=4,
    ),
    Case("quartz", next_key),
    Case("sciq", next_distractor, real=("sciq",), num_labels=4),
    Case(
        "social_i_qa",
        swap("label", "1", "2", "3"),
        real=("social_i_qa", "social_i_qa_resplit"),
        num_labels=3,
    ),
    Case("sst2", BINARY, real=("glue_sst2",)),
    Case("twitter_sentiment", swap("label", 0, 2), real=("tweet_eval_sentiment",)),
    Case("wic", BINARY, real=("super_glue_wic",)),
    Case("preferences", other_reply, real=("hh_rlhf_harmless_base",)),
    Case(
        "preferences",
        other_reply,
        real=("hh_single_turn_harmless",),
        fields={"splits": {"train": ["train_gt", "train_w2s"], "val": [], "test": ["test"]}},
        fixture="preferences_single_turn",
        title="preferences-single_turn",
    ),
    Case("chess", other_move, real=("chess_puzzles",)),
    Case("chess", other_move, fields={"position": "pgn"}),
    Case("safety", swap("is_safe", True, False), real=("wts_safety",)),
    *(
        Case(
            "toxicity",
            relabel,
            real=real,
            fields={"dataset": dataset},
            fixture=f"toxicity/{dataset}",
        )
        for dataset, relabel, real in (
            ("toxigen", other_scores, ("toxigen_annotated",)),
            ("tweet_hate", BINARY, ("tweet_eval_hate",)),
            ("tweet_offensive", BINARY, ("tweet_eval_offensive",)),
            ("hate_speech_offensive", swap("class", 0, 2), ("hate_speech_offensive",)),
            ("civil_comments", other_share, ()),
        )
    ),
    *(
        Case("legal", swap("answer", no, yes), real=real, fields={"subset": subset})
        for subset, no, yes, real in (
            ("overruling", "No", "Yes", ("legalbench",)),
            ("unfair_tos", "Other", "Arbitration", ("legalbench",)),
            ("learned_hands_family", "No", "Yes", ("legalbench",)),
            ("privacy_policy_qa", "Irrelevant", "Relevant", ()),
        )
    ),
    Case(
        "table",
        swap("mood", "glad", "sad", "angry"),
        fields={"prompt": "{text}\nHow does the writer feel?", "label": "mood"},
        fixture="table/labels",
        num_labels=3,
        title="table-labels",
    ),
    Case(
        "table",
        swap("key", "A", "B", "C", "D"),
        fields={
            "prompt": "{question} {choice}",
            "choices": "options",
            "answer": "key",
            "answer_is": "letter",
        },
        fixture="table/choices",
        num_labels=4,
        title="table-choices",
    ),
]


def real_cases() -> list[tuple[Case, str]]:
    """Each case with each of its real data sets."""
    return [(case, name) for case in CASES for name in case.real]


def real_path(name: str) -> Path:
    """Where a real data set is."""
    return Path(os.environ["W2S_DATA"]) / name


def digest_of_rows() -> str:
    """The rows of every fixture as one line, for a comparison between processes."""
    return str([(case.name, sorted_rows(case)) for case in CASES])


def sorted_rows(case: Case) -> list[tuple[str, Row]]:
    """The rows of the fixture in the order in which the task leaves them."""
    data = case.task().load()
    return [(split, row) for split in SPLITS for row in data.rows[split]]


def golden() -> str:
    """One prompt of each case: that of the row with the smallest id."""
    blocks = []
    for case in CASES:
        _, row = min(sorted_rows(case), key=lambda item: item[1].row_id)
        options = "".join(f"--- option {place}\n{text}\n" for place, text in enumerate(row.options))
        blocks.append(f"### {case.name}: label {row.label}\n{row.prompt}\n{options}")
    return "\n".join(blocks)


if __name__ == "__main__":
    GOLDEN.write_text(golden())
