"""`docs/tasks.md`, made from the tasks themselves: what each asks, where its data are, its fields.

python -m tests.w2s.tasks.documentation    # writes docs/tasks.md anew
"""

import sys
from inspect import getdoc
from pathlib import Path

from w2s.spec import available, lookup
from w2s.tasks._dataset import DatasetTask
from w2s.tasks.base import Task

FILE = Path(__file__).parents[3] / "docs" / "tasks.md"

HEAD = """\
# Tasks

What can be named as a task, made from the docstrings and fields in `w2s/tasks/` by
`python -m tests.w2s.tasks.documentation`.

    [task]
    kind = "boolq"
    path = "google/boolq"     # the default; or a folder or file in the same columns

`path` is a hub id, a folder with a file a split (`train.parquet`, `validation.jsonl`, `test.csv`,
...) or one file; `subset` is a configuration or folder of a hub id, or the folder or file of that
name in a local folder.

From rows to splits, the same for every task but `almanac`:

"""

OWN = '''\
## Your own data

A table with a class a row, one with options, and pairs of replies:

```toml
[[tasks]]
kind = "table"
path = "letters.csv"
prompt = "{text}\\nHow does the writer feel?"
label = "mood"
classes = ["sad", "glad"]
group = "{author}"

[[tasks]]
kind = "table"
path = "exam.jsonl"
prompt = "{question} {choice}"
choices = ["a", "b", "c", "d"]
answer = "key"
answer_is = "letter"

[[tasks]]
kind = "preferences"
path = "replies"
prompt = "question"
chosen = "better"
rejected = "worse"
splits = { train = ["train"], val = [], test = ["heldout"] }
```

Anything else is a class: `kind = "my_lab.tasks:Parity"` names a subclass of `w2s.tasks.base.Task`
in a module that Python finds on every node. With `DatasetTask` for its base it says which columns
it reads and what a row becomes; splits, balance, ids and notes come from the base:

```python
class Parity(DatasetTask):
    """Whether a number is odd."""

    kind: Literal["my_lab.tasks:Parity"] = "my_lab.tasks:Parity"

    columns: ClassVar[tuple[str, ...]] = ("number",)

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a number."""
        for _, _, (number,), _ in source.rows(frame, ("number",)):
            yield Example(f"Is {number} odd?", int(number) % 2, group=number)
```
'''
"""What a user reads who brings data."""

REQUIRED = {
    "safety": {"path": "safety.csv"},
    "table": {"path": "t.csv", "prompt": "{a}", "label": "b"},
}
"""Values for fields without a default."""


def steps() -> str:
    """The numbered steps of the shared base."""
    text = sys.modules[DatasetTask.__module__].__doc__ or ""
    return text[text.index("1. ") :].strip()


def tasks() -> list[type[Task]]:
    """Every kind, by name."""
    return [lookup(Task, kind) for kind in available(Task)]


def table() -> str:
    """One line a kind."""
    lines = ["| kind | what is asked | `path` | columns |", "|---|---|---|---|"]
    for task in tasks():
        kind = task.model_fields["kind"].default
        path = columns = ""
        if issubclass(task, DatasetTask):
            made = task.model_validate(REQUIRED.get(kind, {}))
            hub = made.path + (f", subset `{made.subset}`" if made.subset else "")
            path = "yours" if kind in REQUIRED else hub
            columns = (
                "yours" if kind == "table" else ", ".join(f"`{name}`" for name in made.columns)
            )
        what = (getdoc(task) or "").partition("\n")[0].rstrip(".").partition(";")[0]
        lines.append(f"| [`{kind}`](#{kind}) | {what} | {path} | {columns} |")
    return "\n".join(lines)


def section(task: type[Task]) -> str:
    """Docstring of the module and the fields that only this task has."""
    kind = task.model_fields["kind"].default
    text = (sys.modules[task.__module__].__doc__ or "").strip()
    shared = DatasetTask.model_fields if issubclass(task, DatasetTask) else Task.model_fields
    own = [
        f"- `{name}`: {' '.join((field.description or '').split())}"
        for name, field in task.model_fields.items()
        if name not in shared and field.description
    ]
    return "\n\n".join([f"## {kind}", text, *(["\n".join(own)] if own else [])])


def shared_fields() -> str:
    """The fields that all tasks over tables have."""
    return "\n".join(
        f"- `{name}`: {' '.join((field.description or '').split())}"
        for name, field in DatasetTask.model_fields.items()
        if name != "kind"
    )


def rendered() -> str:
    """The whole file."""
    sections = "\n\n".join(section(task) for task in tasks())
    return (
        f"{HEAD}{steps()}\n\nFields that all of them have:\n\n{shared_fields()}\n\n"
        f"{table()}\n\n{OWN}\n{sections}\n"
    )


if __name__ == "__main__":
    FILE.write_text(rendered())
