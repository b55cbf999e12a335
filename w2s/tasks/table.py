"""A table of the user's own: parquet, jsonl, json, csv or tsv in one file or one file a split.

`prompt` is a template with the names of columns in braces. Rows are of one of two sorts:

* labels: `label` names a column with the class of each row, `classes` its values in the order of
  the classes.
* choices: `choices` names the columns of the options, or one column with a list of them, `answer`
  the column that says which is right. Each question becomes as many right as wrong rows: the prompt
  ends with `{choice}`, label 1 where that is the right one (Burns et al. 2023, appendix A.1).

What a template cannot say is a class of one's own: `kind = "my_module:MyTask"`.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, Literal, Self

import pandas as pd
from pydantic import field_validator, model_validator

from w2s import tables
from w2s.errors import UserError
from w2s.tasks._choice import Question, choice_examples
from w2s.tasks._dataset import PARTS, DatasetTask, Part
from w2s.tasks._source import Example, Source, class_name
from w2s.tasks._splits import SplitNames
from w2s.tasks._text import normal
from w2s.tasks.base import PromptTemplate

CHOICE = "choice"
"""Stands for an option in the prompt of a table with choices."""
MAX_CLASSES = 50
"""More values than this are taken for classes only where they are listed."""


class Table(DatasetTask):
    """Classes or choices from the user's own table."""

    kind: Literal["table"] = "table"
    prompt: str
    """Template of what a model reads, `{column}` for a value; with choices, `{choice}` ends it."""
    label: str | None = None
    """Column with the class of each row; rows where it is empty are left out."""
    classes: tuple[str, ...] | None = None
    """Values of the label in the order of the classes; None: all that are found, sorted."""
    choices: str | tuple[str, ...] | None = None
    """Columns of the options of a question, or one column with a list of them."""
    answer: str | None = None
    """Column with the right option of a question."""
    answer_is: Literal["text", "letter", "index", "number"] = "text"
    """What the answer is: the option's text, its letter, its place from 0 or its place from 1."""
    group: str | None = None
    """Template of what keeps rows in one split; None: the prompt without the option."""
    splits: SplitNames = SplitNames()
    """Names of the source's splits."""

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """Numbers and booleans by the text that names them."""
        if not isinstance(value, list | tuple):
            return value
        return tuple(
            class_name(item) if isinstance(item, bool | int | float) else item for item in value
        )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.label is None) == (self.choices is None):
            raise ValueError("give either `label` or `choices`: a column of classes, or of options")
        if (self.choices is None) != (self.answer is None):
            raise ValueError("`choices` and `answer` belong together: give both or none")
        if self.choices is not None and self.classes is not None:
            raise ValueError("`classes` goes with `label`; rows with choices are right or wrong")
        if self.choices is not None and not self.prompt.endswith(f"{{{CHOICE}}}"):
            raise ValueError(
                f"with `choices` the prompt must end with {{{CHOICE}}}; found {self.prompt!r}"
            )
        names = [*_placeholders("prompt", self.prompt), *_placeholders("group", self.group or "")]
        truth = self.label or self.answer
        if truth in names:
            raise ValueError(f"the template shows the column {truth!r}, which is the ground truth")
        if not set(_placeholders("prompt", self.prompt)) - {CHOICE}:
            raise ValueError(f"the prompt has no {{column}}; found {self.prompt!r}")
        if self.classes is not None:
            lowered = [name.casefold() for name in self.classes]
            if len(lowered) < 2 or len(set(lowered)) < len(lowered):
                raise ValueError(
                    "`classes` needs two or more values that differ in more than case; "
                    f"found {', '.join(map(repr, self.classes))}"
                )
        return self

    @property
    def title(self) -> str:
        """The kind and the name of the file or folder."""
        return f"{self.kind}-{Path(self.path).stem}"

    def prompt_template(self) -> PromptTemplate:
        """The values of the label are its words; of a choice, 1 is right and 0 is wrong."""
        if self.choices is not None:
            return PromptTemplate(
                instruction="Each input ends with an answer. "
                "The label is 1 if the answer is correct, else 0."
            )
        return PromptTemplate(
            instruction=f"The label of each input is one of: {', '.join(self._classes)}.",
            labels=tuple(f" {name}" for name in self._classes),
        )

    @property
    def num_classes(self) -> int:
        """2 with choices; else the number of `classes`, which are read from the data if not given.

        Raises:
            UserError: the data cannot be read, or have too many labels.
        """
        return 2 if self.choices is not None else len(self._classes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        return tuple(dict.fromkeys((*self._shown, *self._options, self._truth)))

    @property
    def source_splits(self) -> Mapping[Part, tuple[str, ...]]:
        """Splits of the source that each part is made of."""
        return self.splits.by_part()

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a row, or a right and a wrong one a question."""
        if self.choices is not None:
            return choice_examples(self._questions(frame, source), source, self.seed)
        return self._labelled(frame, source)

    def _labelled(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        shown = self._shown
        for _, label, texts, _ in source.rows(
            frame, shown, label=self._truth, classes=self._classes
        ):
            values = dict(zip(shown, texts, strict=True))
            prompt = _fill(self.prompt, values)
            group = prompt if self.group is None else _fill(self.group, values)
            yield Example(prompt=prompt, label=label, group=normal(group) or group)

    def _questions(self, frame: pd.DataFrame, source: Source) -> Iterator[Question]:
        shown, options = self._shown, self._options
        for row, _, texts, others in source.rows(frame, shown, others=(*options, self._truth)):
            if isinstance(self.choices, str):
                found = source.texts(row, self.choices, others[0])
            else:
                found = [
                    source.text(row, column, cell)
                    for column, cell in zip(options, others, strict=False)
                ]
            right = self._right(source, row, others[-1], found)
            if right is None:
                continue
            values = dict(zip(shown, texts, strict=True))
            stem = _fill(self.prompt.removesuffix(f"{{{CHOICE}}}"), values)
            group = stem if self.group is None else _fill(self.group, values)
            yield Question(
                stem=stem,
                group=normal(group) or group,
                right=(found[right],),
                wrong=tuple(text for place, text in enumerate(found) if place != right),
            )

    def _right(self, source: Source, row: int, answer: Any, options: list[str]) -> int | None:
        """Place of the right option; None where the row has no answer."""
        match self.answer_is:
            case "text":
                names = options
            case "letter":
                names = [chr(ord("A") + place) for place in range(len(options))]
            case "index":
                names = [str(place) for place in range(len(options))]
            case "number":
                names = [str(place + 1) for place in range(len(options))]
        return source.chosen(row, self._truth, answer, names)

    @property
    def _shown(self) -> tuple[str, ...]:
        """Columns of the templates."""
        names = [*_placeholders("prompt", self.prompt), *_placeholders("group", self.group or "")]
        own = {CHOICE} if self.choices is not None else set()
        return tuple(name for name in dict.fromkeys(names) if name not in own)

    @property
    def _options(self) -> tuple[str, ...]:
        """Columns of the options."""
        return (self.choices,) if isinstance(self.choices, str) else self.choices or ()

    @property
    def _truth(self) -> str:
        truth = self.label or self.answer
        assert truth is not None, "checked when it was made"
        return truth

    @property
    def _classes(self) -> Mapping[str, int]:
        """Class of each value of the label, in lower case."""
        names = self.classes
        if names is None:
            found = self._found()
            splits = (
                ("",) if found is None else tuple(name for part in PARTS for name in found[part])
            )
            place = (self.path, self.revision, self.subset)
            names = _found_classes(*place, splits, self._truth, self.fingerprint())
        return {name.casefold(): place for place, name in enumerate(names)}


@lru_cache(maxsize=8)
def _found_classes(
    path: str,
    revision: str | None,
    subset: str | None,
    splits: tuple[str, ...],
    column: str,
    _fingerprint: str,
) -> tuple[str, ...]:
    """The values of a label column, sorted: numbers by size, other values by letter."""
    names: set[str] = set()
    for split in splits:
        frame = tables.read(path, split, (column,), revision, subset)
        names.update(map(class_name, frame[column].drop_duplicates().tolist()))
    names -= {"", "-1"}
    if not 2 <= len(names) <= MAX_CLASSES:
        shown = ", ".join(map(repr, sorted(names)[:5])) + (", ..." if len(names) > 5 else "")
        raise UserError(
            f"data {path!r}, column {column!r}: {len(names)} different labels ({shown}); "
            f"classes that are found must be 2 to {MAX_CLASSES}: list them in `classes`"
        )
    return tuple(sorted(names, key=_size))


def _size(name: str) -> tuple[bool, float, str]:
    """Order of found labels."""
    try:
        return (False, float(name), name)
    except ValueError:
        return (True, 0.0, name)


def _placeholders(field: str, template: str) -> list[str]:
    """The names in braces of a template.

    Raises:
        ValueError: a brace is not closed, or holds more than a name.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{field}: {error}; found {template!r}; `{{{{` is a brace") from error
    for _, name, detail, conversion in parts:
        if name is not None and (not name or detail or conversion):
            raise ValueError(
                f"{field}: braces hold the name of a column and nothing else; found {template!r}"
            )
    return [name for _, name, _, _ in parts if name is not None]


def _fill(template: str, values: Mapping[str, str]) -> str:
    """The template with a value for each name."""
    return "".join(
        text + ("" if name is None else values[name])
        for text, name, _, _ in Formatter().parse(template)
    )
