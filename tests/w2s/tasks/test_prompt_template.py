import pytest

from tests.w2s.tasks.cases import CASES, Case
from w2s.tasks.base import Demo


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_label_follows_the_text_of_each_row(case: Case) -> None:
    task = case.task()
    template = task.prompt_template()
    assert len(template.labels) == task.num_classes
    shown, asked = task.load().rows["test"][:2]
    text = template.render(asked.prompt, [Demo(shown.prompt, shown.label)])
    answered = f"{shown.prompt}{template.question.partition('{prompt}')[2]}"
    assert f"{answered}{template.labels[shown.label]}{template.separator}" in text
    assert text.endswith(f"{asked.prompt}{template.question.partition('{prompt}')[2]}")
    # A prompt that ends with an open `A:` is answered there and then.
    assert not answered.endswith("A:\nLabel:")
