"""How questions of every task over a data set are debated: their words, and their passages."""

import os

import pytest

from serving.debate.prompts import DebatePrompts
from serving.debate.types import Question
from tests.w2s.tasks import cases
from tests.w2s.tasks.cases import CASES, Case
from w2s.tasks.base import shape_of

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
WITH_PASSAGES = {"boolq", "cosmos_qa", "dream", "multirc", "quail"}
REAL = [
    pytest.param(case, name, id=name)
    for case, name in cases.real_cases()
    if case.kind in WITH_PASSAGES
]


@EVERY
def test_passage_and_question_make_up_the_prompt(case: Case) -> None:
    task = case.task()
    for rows in task.load().rows.values():
        for row in rows:
            passage, question = task.passage(row.prompt), task.without_passage(row.prompt)
            assert row.prompt == (f"{passage}\n\n{question}" if passage else question)
            assert question.startswith("Q: ") or not passage


def test_questions_about_texts_have_passages() -> None:
    found = {case.kind for case in CASES if shape_of(case.task()).has_passages}
    assert found >= WITH_PASSAGES
    assert not found & {"sciq", "openbookqa", "piqa", "chess"}


@EVERY
def test_a_debate_names_the_words_of_the_two_labels(case: Case) -> None:
    task = case.task()
    prompts, labels = task.debate_prompts(), task.prompt_template().labels
    if task.num_classes != 2 or labels == (" 0", " 1"):
        assert prompts == DebatePrompts()
        return
    no, yes = (label.strip() for label in labels)
    assert prompts.correct_name.split()[-1] == yes.split()[-1]
    assert prompts.incorrect_name.split()[-1] == no.split()[-1]
    opening = prompts.prompt(Question("q", "So?"), "A", "incorrect", 0, [])
    assert f"the answer is {prompts.incorrect_name}" in opening


@pytest.mark.skipif("W2S_DATA" not in os.environ, reason="W2S_DATA names no folder of real sets")
@pytest.mark.parametrize(("case", "name"), REAL)
def test_real_questions_have_passages(case: Case, name: str) -> None:
    task = case.task(cases.real_path(name))
    rows = task.load().rows["test"]
    assert all(len(task.passage(row.prompt)) > 20 for row in rows)
    assert all(task.without_passage(row.prompt).startswith("Q: ") for row in rows)
