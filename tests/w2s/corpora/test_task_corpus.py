"""The text of tasks as a corpus: training rows only, no labels, every option."""

import pytest

from tests.w2s.tasks.cases import CASES
from w2s.corpora.base import Corpus
from w2s.corpora.task import TaskCorpus
from w2s.errors import UserError
from w2s.spec import parse
from w2s.tasks.base import Task, load


def task(kind: str) -> Task:
    return next(case for case in CASES if case.kind == kind).task()


def corpus(*tasks: Task) -> TaskCorpus:
    found = parse(Corpus, {"kind": "task", "num_tokens": 1000}).bind(tasks[0], tasks)
    assert isinstance(found, TaskCorpus)
    return found


def test_models_read_training_prompts_of_every_task_and_nothing_else() -> None:
    tasks = (task("sst2"), task("boolq"))
    documents = set(corpus(*tasks).reading().documents())
    read = {
        row.prompt
        for each in tasks
        for split in ("weak_train", "strong_train")
        for row in load(each).rows[split]
    }
    held_out = {
        row.prompt for each in tasks for split in ("val", "test") for row in load(each).rows[split]
    }
    assert documents == read - held_out
    assert documents


def test_each_option_of_a_choice_among_texts_is_read_by_itself() -> None:
    preferences = task("preferences")
    documents = set(corpus(preferences).reading().documents())
    rows = load(preferences).rows["weak_train"]
    assert all(set(row.options) <= documents for row in rows)
    assert not {row.prompt for row in rows} & documents


def test_a_corpus_that_names_tasks_keeps_them_and_one_without_any_is_refused() -> None:
    own = corpus(task("sst2"))
    assert own.bind(task("boolq"), (task("boolq"),)) == own
    with pytest.raises(UserError, match="names no task"):
        TaskCorpus(num_tokens=1000).reading()


def test_other_rows_are_another_corpus() -> None:
    case = next(case for case in CASES if case.kind == "sst2")
    assert corpus(case.task()).reading() != corpus(case.task(seed=1)).reading()
    assert corpus(case.task()).fingerprint() == corpus(case.task(seed=1)).fingerprint()
