"""Toxic, hateful or offensive text (Ye et al. 2024 in classification form; five public data sets).

The paper poses toxicity as generation scored by a service on the web; as classification, `dataset`
names one of the labelled sets below. Label 1 is toxic.

* `toxigen` (Hartvigsen et al. 2022, annotated): the human scores `toxicity_human` and
  `toxicity_ai`, 1 to 5 each, add up to more than 5.5, the threshold of its authors. Some copies
  have the text as the repr of bytes (`b'...'`), which is undone.
* `tweet_hate`, `tweet_offensive` (TweetEval, Barbieri et al. 2020): label 1.
* `hate_speech_offensive` (Davidson et al. 2017): the majority's class is 0 (hate speech) or 1
  (offensive language) against 2 (neither).
* `civil_comments` (Borkan et al. 2019): `toxicity`, the share of raters that found it toxic, is 0.5
  or more.

The prompt is the text with the question after it, the same in every split.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from pydantic import model_validator

from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal
from w2s.tasks.base import PromptTemplate

Dataset = Literal[
    "toxigen", "tweet_hate", "tweet_offensive", "hate_speech_offensive", "civil_comments"
]


@dataclass(frozen=True, slots=True)
class _Published:
    """Where one data set is on the hub and how its labels are read."""

    path: str
    splits: Mapping[Part, tuple[str, ...]]
    text: str
    labels: tuple[str, ...]
    """The label column, or columns of numbers that are added."""
    subset: str | None = None
    question: str = "Is this text toxic?"
    classes: Mapping[str, int] | None = None
    """Class of each label."""
    above: float | None = None
    """Toxic where the sum of the numbers is greater."""
    at_least: float | None = None
    """Toxic where the sum of the numbers is this or greater."""


TRAIN_ONLY: Mapping[Part, tuple[str, ...]] = {"train": ("train",), "val": (), "test": ()}
NO_VAL: Mapping[Part, tuple[str, ...]] = {**TRAIN_ONLY, "test": ("test",)}
ALL: Mapping[Part, tuple[str, ...]] = {**NO_VAL, "val": ("validation",)}

PUBLISHED: dict[str, _Published] = {
    "toxigen": _Published(
        "toxigen/toxigen-data",
        NO_VAL,
        "text",
        ("toxicity_human", "toxicity_ai"),
        subset="annotated",
        above=5.5,
    ),
    "tweet_hate": _Published(
        "cardiffnlp/tweet_eval",
        ALL,
        "text",
        ("label",),
        subset="hate",
        question="Is this text hateful?",
        classes={"0": 0, "1": 1},
    ),
    "tweet_offensive": _Published(
        "cardiffnlp/tweet_eval",
        ALL,
        "text",
        ("label",),
        subset="offensive",
        question="Is this text offensive?",
        classes={"0": 0, "1": 1},
    ),
    "hate_speech_offensive": _Published(
        "tdavidson/hate_speech_offensive",
        TRAIN_ONLY,
        "tweet",
        ("class",),
        question="Is this text hateful or offensive?",
        classes={"0": 1, "1": 1, "2": 0},
    ),
    "civil_comments": _Published("google/civil_comments", ALL, "text", ("toxicity",), at_least=0.5),
}
"""Each data set by its name."""


class Toxicity(DatasetTask):
    """Whether a text is toxic, in the sense of one of the labelled sets."""

    kind: Literal["toxicity"] = "toxicity"
    dataset: Dataset = "toxigen"
    """Whose columns and whose sense of toxic."""
    path: str = ""
    """Hub id, folder or file in the columns of `dataset`; empty: its hub id."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """The hub id and configuration of the data set, where no other place is named."""
        if not isinstance(values, dict) or values.get("path"):
            return values
        published = PUBLISHED.get(values.get("dataset", "toxigen"))
        if published is None:
            return values
        return {**values, "path": published.path, "subset": published.subset}

    @property
    def title(self) -> str:
        """The name of the data set."""
        return f"{self.kind}-{self.dataset}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        published = PUBLISHED[self.dataset]
        return (published.text, *published.labels)

    @property
    def source_splits(self) -> Mapping[Part, tuple[str, ...]]:
        """Splits of the data set on the hub."""
        return PUBLISHED[self.dataset].splits

    def prompt_template(self) -> PromptTemplate:
        """The prompt's question, answered by No or Yes."""
        return PromptTemplate(question="{prompt}\nAnswer:", labels=(" No", " Yes"))

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a text."""
        published = PUBLISHED[self.dataset]
        if published.classes is not None:
            (column,) = published.labels
            rows = source.rows(frame, (published.text,), label=column, classes=published.classes)
        else:
            rows = source.rows(frame, (published.text,), others=published.labels)
        for row, label, (text,), scores in rows:
            if published.classes is None:
                label = _label(row, scores, published, source)
            text = _decoded(text)
            yield Example(
                prompt=f"Text: {text}\n{published.question}",
                label=label,
                group=normal(text) or text,
            )


def _label(row: int, scores: tuple[Any, ...], published: _Published, source: Source) -> int:
    """1 where the sum of the scores passes the threshold."""
    total = 0.0
    for column, score in zip(published.labels, scores, strict=True):
        source.label_column = column
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = float("nan")
        if number != number:
            raise source.error(row, column, f"found {score!r}; allowed: a number")
        total += number
    if published.above is not None:
        return int(total > published.above)
    assert published.at_least is not None
    return int(total >= published.at_least)


def _decoded(text: str) -> str:
    """The text of the repr of bytes; any other text as it is."""
    if text[:2] not in ("b'", 'b"'):
        return text
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return found.decode(errors="replace").strip() if isinstance(found, bytes) else text
