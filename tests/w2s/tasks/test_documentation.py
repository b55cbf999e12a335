import inspect
import tomllib

from tests.w2s.tasks import documentation
from tests.w2s.tasks.parity import Parity
from w2s.spec import parse
from w2s.tasks.base import Task


def test_the_page_about_tasks_says_what_the_tasks_say() -> None:
    """`python -m tests.w2s.tasks.documentation` writes the page."""
    assert documentation.rendered() == documentation.FILE.read_text()


def test_the_examples_of_own_data_are_tasks() -> None:
    _, toml, _, python, _ = documentation.OWN.split("```")
    tasks = [parse(Task, task) for task in tomllib.loads(toml.removeprefix("toml"))["tasks"]]
    assert [task.kind for task in tasks] == ["table", "table", "preferences"]
    tested = inspect.getsource(Parity).replace("tests.w2s.tasks.parity", "my_lab.tasks")
    assert python.removeprefix("python\n") == tested
