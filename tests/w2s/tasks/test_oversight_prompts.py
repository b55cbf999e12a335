"""What judges and critics are asked, by what the rows of a task are."""

from pathlib import Path

import pytest

from tests.w2s.tasks.cases import CASES, Case
from w2s.tasks.almanac import Almanac
from w2s.tasks.base import Task, load
from w2s.tasks.boolq import BoolQ
from w2s.tasks.preferences import Preferences
from w2s.tasks.sciq import SciQ
from w2s.templates import Verdict

FIXTURES = Path(__file__).parents[2] / "fixtures"
SCIQ = SciQ(path=str(FIXTURES / "sciq"))
BOOLQ = BoolQ(path=str(FIXTURES / "boolq"))


@pytest.mark.parametrize("task", [SCIQ, BOOLQ, Almanac()])
def test_a_judge_answers_in_the_label_words_of_the_task(task: Task) -> None:
    assert task.judge_prompts().labels == task.prompt_template().labels


def test_a_verdict_is_on_the_proposed_answer_where_there_is_one() -> None:
    prompts = SCIQ.judge_prompts()
    assert SCIQ.proposes_answers
    assert prompts.parse("Answer: incorrect") == Verdict(0, "")
    assert prompts.parse("Answer: B") == Verdict(None, "B")
    text = prompts.render("Q: why? A: so", "Debater A: yes", written=True)
    assert text.startswith("Each input is a science question and an answer to it.")
    assert "Q: why? A: so\n\nDebater A: yes\n\nIs the proposed answer correct?" in text


def test_a_verdict_is_a_label_word_where_rows_propose_no_answer() -> None:
    prompts = BOOLQ.judge_prompts()
    assert not BOOLQ.proposes_answers
    assert prompts.render("Q: is it?\nA:", written=True) == (
        "Q: is it?\nA:\n\nWhat is the answer? Give it in one line, `Answer: No` or `Answer: Yes`.\n"
    )
    assert prompts.parse("Answer: Yes") == Verdict(1, "")
    assert prompts.parse("Answer: correct") == Verdict(None, "")
    assert "proposed" not in BOOLQ.critique_prompts().ask


def test_options_that_are_called_as_debaters_are_options() -> None:
    prompts = Preferences(path=str(FIXTURES / "preferences")).judge_prompts()
    assert [label.strip() for label in prompts.labels] == ["A", "B"]
    assert prompts.parse("Answer: B") == Verdict(1, "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_questions_are_apart_from_the_answers_that_rows_propose(case: Case) -> None:
    task = case.task()
    rows = [row for part in load(task).rows.values() for row in part]
    proposing = [row for row in rows if row.question]
    assert len(proposing) in (0, len(rows))
    if "answer" in task.instruction or proposing:
        assert task.proposes_answers
        assert proposing
    answers: dict[str, dict[int, set[str]]] = {}
    for row in proposing:
        assert row.prompt.startswith(row.question)
        answer = row.prompt.removeprefix(row.question)
        assert answer.strip()
        answers.setdefault(row.question, {}).setdefault(row.label, set()).add(answer)
    # Of most questions there is a right and a wrong answer: what they have in common tells neither.
    both = [found for found in answers.values() if len(found) == 2]
    assert not proposing or both
