"""SciQ (Welbl et al. 2017): science exam questions, each with the right answer or a wrong one.

As in Burns et al. (2023, appendix A) a question with its options becomes a question of yes or no:
`Q: ... A: ...`, label 1 for the right answer and 0 for one of the distractors. Each question gives
as many right as wrong rows, and all its rows are in one split.

The training questions of the source are halved into `weak_train` and `strong_train`; `val` and
`test` are its validation and test questions. The source repeats questions, also across its splits,
and has the right answer among the distractors here and there. All of this is found, counted in the
notes, and mended at the expense of training: a test question is never dropped for being in train
too.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from w2s import tables
from w2s.errors import UserError
from w2s.tasks._text import mask_content_words, normal
from w2s.tasks.base import Task
from w2s.types import Row, Split, TaskData

COLUMNS = ("question", "correct_answer", "distractor1", "distractor2", "distractor3")
"""Columns of the data set on the hub that are read."""
HUB_SPLITS = ("train", "validation", "test")

HELD_OUT_SHARE = 0.1
"""Share of the questions of a single file that becomes `val`, and again `test`."""


@dataclass(slots=True)
class _Question:
    """One question with the options of all its copies."""

    text: str
    right: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)


class SciQ(Task):
    """Whether an answer to a science question is right."""

    kind: Literal["sciq"] = "sciq"
    path: str = "allenai/sciq"
    """Hub id, folder with train, validation and test files, or one file, in the hub's columns."""
    revision: str | None = None
    """Commit, branch or tag of a hub id."""
    num_train_questions: int | None = Field(default=None, ge=2)
    """Training questions to keep, for both halves together; None: all."""
    num_val_questions: int | None = Field(default=None, ge=1)
    """Questions of `val` to keep; None: all."""
    num_test_questions: int | None = Field(default=None, ge=1)
    """Questions of `test` to keep; None: all."""
    seed: int = Field(default=0, ge=0)
    """Halves the training questions, picks the distractors and the questions to keep."""

    def identity_fields(self) -> Iterable[str]:
        """Where the data lie is no identity: their fingerprint goes beside the task."""
        return [name for name in type(self).model_fields if name != "path"]

    def fingerprint(self) -> str:
        """Digest of the three splits of the source."""
        return tables.fingerprint(self.path, HUB_SPLITS, self.revision)

    def load(self) -> TaskData:
        """Read, mend and split the questions; the notes count what was mended."""
        notes: list[str] = []
        if tables.has_splits(self.path):
            train, val, test = (self._questions(split, notes) for split in HUB_SPLITS)
        else:
            train, val, test = self._cut(self._questions("train", notes), notes)
        _drop_shared(train, "train", test, "test", notes)
        _drop_shared(train, "train", val, "validation", notes)
        _drop_shared(val, "validation", test, "test", notes)

        kept = self._kept(train, self.num_train_questions)
        splits: dict[Split, list[str]] = {
            "weak_train": kept[0::2],
            "strong_train": kept[1::2],
            "val": self._kept(val, self.num_val_questions),
            "test": self._kept(test, self.num_test_questions),
        }
        for split, names in splits.items():
            if not names:
                raise UserError(
                    f"data {self.path!r} leave the split {split!r} of task 'sciq' empty: "
                    f"{len(train)} train, {len(val)} validation and {len(test)} test questions "
                    "are usable"
                )
        questions = {**train, **val, **test}
        return TaskData(
            rows={
                split: [row for name in names for row in self._rows(name, questions[name])]
                for split, names in splits.items()
            },
            notes=notes,
        )

    def mask_transcript(self, transcript: str) -> str:
        """The transcript with numbered markers for content words."""
        return mask_content_words(transcript)

    def _questions(self, split: str, notes: list[str]) -> dict[str, _Question]:
        """The usable questions of one split of the source, by normal form."""
        frame = tables.read(self.path, split, COLUMNS, self.revision).fillna("")
        questions: dict[str, _Question] = {}
        empty = repeated = among_distractors = 0
        for text, answer, *distractors in frame.astype(str).itertuples(index=False):
            if not (name := normal(text)) or not answer.strip():
                empty += 1
                continue
            repeated += name in questions
            question = questions.setdefault(name, _Question(text.strip()))
            # Copies may differ in case or punctuation: one form, whatever their order.
            question.text = min(question.text, text.strip())
            question.right.add(answer.strip())
            among_distractors += _spelled(answer) in map(_spelled, distractors)
            question.wrong |= {option.strip() for option in distractors if option.strip()}
        for question in questions.values():
            right = set(map(_spelled, question.right))
            question.wrong = {option for option in question.wrong if _spelled(option) not in right}
        usable = {name: question for name, question in questions.items() if question.wrong}
        for count, what in (
            (empty, "rows without question or answer were dropped"),
            (repeated, "rows repeat a question and were merged with it"),
            (
                among_distractors,
                "rows have the right answer among the distractors, where it was dropped",
            ),
            (len(questions) - len(usable), "questions without a wrong answer were dropped"),
        ):
            if count:
                notes.append(f"source split {split}: {count} {what}.")
        return usable

    def _cut(
        self, questions: dict[str, _Question], notes: list[str]
    ) -> tuple[dict[str, _Question], dict[str, _Question], dict[str, _Question]]:
        """Train, validation and test of a file without splits."""
        names = self._kept(questions, None)
        size = round(len(names) * HELD_OUT_SHARE)
        notes.append(
            f"one file without splits: of {len(names)} questions {size} were cut off as "
            f"validation and {size} as test."
        )

        def part(chosen: list[str]) -> dict[str, _Question]:
            return {name: questions[name] for name in chosen}

        return part(names[2 * size :]), part(names[:size]), part(names[size : 2 * size])

    def _kept(self, names: Iterable[str], number: int | None) -> list[str]:
        """The first `number` questions, ordered by seed and question alone."""
        return sorted(names, key=lambda name: _digest(str(self.seed), name))[:number]

    def _rows(self, name: str, question: _Question) -> list[Row]:
        """Equally many right and wrong rows of one question, in an order that tells nothing."""

        def draw(options: set[str], number: int) -> list[str]:
            one_spelling = {_spelled(option): option for option in sorted(options)}
            chosen = sorted(
                one_spelling.values(), key=lambda option: _digest(str(self.seed), name, option)
            )
            return chosen[:number]

        number = min(
            len(set(map(_spelled, options))) for options in (question.right, question.wrong)
        )
        labelled = [(option, 1) for option in draw(question.right, number)]
        labelled += [(option, 0) for option in draw(question.wrong, number)]
        rows = [
            Row(
                row_id=_digest(question.text, option),
                group=name,
                prompt=f"Q: {question.text} A: {option}",
                label=label,
            )
            for option, label in labelled
        ]
        return sorted(rows, key=lambda row: row.row_id)


def _spelled(option: str) -> str:
    """When two options are the same answer: "Na+" and "Na-" are not, "DNA" and "dna " are."""
    return " ".join(option.casefold().split())


def _drop_shared(
    questions: dict[str, _Question],
    name: str,
    held_out: dict[str, _Question],
    held_out_name: str,
    notes: list[str],
) -> None:
    """Remove from `questions`, in place, what is held out; leave a note."""
    shared = [question for question in questions if question in held_out]
    for question in shared:
        del questions[question]
    if shared:
        notes.append(
            f"{len(shared)} {held_out_name} questions are also in {name}: dropped from {name}."
        )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
