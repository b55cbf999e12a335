"""Legal reasoning (Ye et al. 2024; sets of LegalBench, Guha et al. 2023): yes or no about a text.

`subset` names the set. The paper's own, `privacy_policy_qa`, asks whether a clause answers a
question about a privacy policy; the others have one question for all rows, given here for the sets
that are known and by `question` for any other set with the columns `text` and `answer` (Yes or No).
`unfair_tos` has nine answers: whatever is not `Other` counts as an unfair term.

Prompts end with the question, the same way in every split. The `train` split of a set holds a
handful of rows that were meant as demonstrations, so all rows of a set are read together and cut
into splits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import pandas as pd
from pydantic import model_validator

from w2s.errors import UserError
from w2s.tasks._dataset import DatasetTask, Part
from w2s.tasks._source import Example, Source
from w2s.tasks._text import normal
from w2s.tasks.base import PromptTemplate

YES_NO = {"no": 0, "yes": 1}
OWN = "{question}"
"""Stands for the question of the row, in a set where each row brings its own."""


@dataclass(frozen=True, slots=True)
class _Set:
    """What is asked in one set."""

    question: str
    """Question about the text."""
    text: str = "text"
    """Column of the text."""
    name: str = "Text"
    """What the text is, before it in the prompt."""
    classes: Mapping[str, int] = field(default_factory=lambda: YES_NO)
    """Class of each answer, in lower case."""


UNFAIR = (
    "arbitration",
    "unilateral change",
    "content removal",
    "choice of law",
    "unilateral termination",
    "limitation of liability",
    "jurisdiction",
    "contract by using",
)

TOPICS = {
    "benefits": "public benefits or social services",
    "business": "running a business or a non-profit",
    "consumer": "money, debts, insurance or a purchase",
    "courts": "courts, lawyers or how a case is brought",
    "crime": "a crime, the police or a criminal case",
    "divorce": "separation, divorce or what follows from it",
    "domestic_violence": "violence or abuse in a family or couple",
    "education": "school or university",
    "employment": "work, pay or a job",
    "estates": "wills, estates or guardianship",
    "family": "family, marriage or children",
    "health": "health care or its costs",
    "immigration": "visas, asylum or citizenship",
    "torts": "harm that one person does to another",
    "traffic": "traffic, driving or parking",
}

SETS = {
    "privacy_policy_qa": _Set(
        "Does the clause answer this question: {question}",
        name="Clause",
        classes={"irrelevant": 0, "relevant": 1},
    ),
    "consumer_contracts_qa": _Set("{question}", text="contract", name="Contract"),
    "overruling": _Set("Does this sentence overrule an earlier decision?", name="Sentence"),
    "unfair_tos": _Set(
        "Is this term unfair to the user?",
        name="Term of service",
        classes={"other": 0, **dict.fromkeys(UNFAIR, 1)},
    ),
    **{
        f"learned_hands_{name}": _Set(f"Is this post about {topic}?", name="Post")
        for name, topic in TOPICS.items()
    },
}
"""The sets whose question is known."""


class Legal(DatasetTask):
    """Whether the answer to a question about a legal text is yes."""

    is_family: ClassVar[bool] = True

    kind: Literal["legal"] = "legal"
    path: str = "nguha/legalbench"
    subset: str | None = "overruling"
    """The set: a configuration of the hub id, or the file of that name in a folder."""
    question: str | None = None
    """What is asked about each text (`{question}`: the row's own); None: as known for the set."""

    source_splits: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": ("train", "test"),
        "val": (),
        "test": (),
    }

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        own = ("question",) if OWN in self._set.question else ()
        return (self._set.text, *own, "answer")

    @property
    def _set(self) -> _Set:
        known = SETS.get(self.subset or "", _Set(""))
        return known if self.question is None else replace(known, question=self.question)

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.question is None and self.subset not in SETS:
            raise UserError(
                f"no question is known for the set {self.subset!r}; known: {', '.join(SETS)}; "
                "say what is asked: question = '...'"
            )
        return self

    def prompt_template(self) -> PromptTemplate:
        """The prompt's question, answered by No or Yes."""
        return PromptTemplate(question="{prompt}\nAnswer:", labels=(" No", " Yes"))

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """One example a row; rows about one text stay together."""
        asked = self._set
        texts = self.columns[:-1]
        for _, label, (text, *own), _ in source.rows(
            frame, texts, label="answer", classes=asked.classes
        ):
            question = asked.question.replace(OWN, own[0]) if own else asked.question
            yield Example(
                prompt=f"{asked.name}: {text}\nQuestion: {question}",
                label=label,
                group=normal(text) or text,
            )
