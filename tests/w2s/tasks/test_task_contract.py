"""What holds for every task over a data set, on made-up rows and, if there are, on real ones."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.w2s.tasks import cases
from tests.w2s.tasks.cases import CASES, Case
from w2s.spec import available
from w2s.tasks.base import Task
from w2s.types import SPLITS, Row, TaskData

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
REAL = [pytest.param(case, name, id=name) for case, name in cases.real_cases()]


_LOADED: dict[str, TaskData] = {}


def load(case: Case) -> TaskData:
    """The rows of the fixture, loaded once."""
    if case.name not in _LOADED:
        _LOADED[case.name] = case.task().load()
    return _LOADED[case.name]


def check_splits(data: TaskData, num_classes: int) -> None:
    """Four splits, disjoint by id, group and text; `test` balanced, the others nearly."""
    for of in (
        lambda row: row.row_id,
        lambda row: row.group,
        lambda row: (row.prompt, row.options),
    ):
        parts = [{of(row) for row in data.rows[split]} for split in SPLITS]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts))
    assert len({row.row_id for rows in data.rows.values() for row in rows}) == sum(
        map(len, data.rows.values())
    )
    for split in SPLITS:
        counts = Counter(row.label for row in data.rows[split])
        assert set(counts) == set(range(num_classes))
        if split == "test":
            assert len(set(counts.values())) == 1
        else:
            assert max(counts.values()) * num_classes <= 1.1 * len(data.rows[split])


def prompts_by_id(data: TaskData) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {row.row_id: (row.prompt, row.options) for rows in data.rows.values() for row in rows}


def write_shuffled(case: Case, folder: Path) -> Path:
    """The fixture with its lines in another order."""
    for file in case.path.rglob("*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        target = folder / file.relative_to(case.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        order = pd.Series(lines).sample(frac=1, random_state=1)
        target.write_text("".join(order))
    return folder


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES} == set(available(Task)) - {"almanac"}


@EVERY
def test_splits_are_disjoint_and_balanced(case: Case) -> None:
    check_splits(load(case), case.task().num_classes)


@EVERY
def test_another_seed_draws_other_halves_and_keeps_ids(case: Case) -> None:
    data = load(case)
    others = [case.task(seed=seed).load() for seed in (1, 2)]
    weak = {row.group for row in data.rows["weak_train"]}
    assert any({row.group for row in other.rows["weak_train"]} != weak for other in others)
    ids = {content: row_id for row_id, content in prompts_by_id(data).items()}
    shared = [
        (row_id, ids[content])
        for other in others
        for row_id, content in prompts_by_id(other).items()
        if content in ids
    ]
    assert shared
    assert all(here == there for here, there in shared)


@EVERY
def test_the_order_of_the_file_changes_nothing(case: Case, tmp_path: Path) -> None:
    assert case.task(write_shuffled(case, tmp_path)).load().rows == load(case).rows


@EVERY
def test_a_prompt_is_the_same_whatever_its_label(case: Case) -> None:
    """Every text that is asked about with one label occurs with each other label of its class."""
    by_label: dict[int, set[object]] = {}
    for times in range(case.num_labels):
        for example in case.examples(times):
            content = (example.prompt, example.options, example.group)
            by_label.setdefault(example.label, set()).add(content)
    # Of each question every option is right in one round: all texts that there can be.
    every = by_label[1]
    assert all(contents <= every for contents in by_label.values())
    assert case.examples(case.num_labels) == case.examples(0)


def test_rows_are_the_same_in_another_process() -> None:
    """Hashes of text that differ between processes decide nothing."""
    program = (
        "import hashlib; from tests.w2s.tasks import cases; "
        "print(hashlib.sha256(cases.digest_of_rows().encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == hashlib.sha256(cases.digest_of_rows().encode()).hexdigest()


def test_prompts_are_those_of_the_golden_file() -> None:
    """A changed prompt is a changed task; `python -m tests.w2s.tasks.cases` writes the file."""
    assert cases.golden() == cases.GOLDEN.read_text()


@pytest.mark.skipif("W2S_DATA" not in os.environ, reason="W2S_DATA names no folder of real sets")
@pytest.mark.parametrize(("case", "name"), REAL)
def test_real_data_keep_the_contract(case: Case, name: str) -> None:
    task = case.task(cases.real_path(name))
    data = task.load()
    check_splits(data, task.num_classes)
    fewer = task.model_copy(
        update={"max_rows": 200, "max_val_rows": 50, "max_test_rows": 100}
    ).load()
    check_splits(fewer, task.num_classes)
    kept: dict[str, list[Row]] = {split: fewer.rows[split] for split in SPLITS}
    assert all(set(kept[split]) <= set(data.rows[split]) for split in SPLITS)
    assert all(
        len(kept[split]) <= limit for split, limit in zip(SPLITS, (100, 100, 50, 100), strict=True)
    )
