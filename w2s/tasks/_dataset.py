"""What tasks over published data sets share: from the rows of a source to four splits.

A subclass of `DatasetTask` names the columns it reads and turns the rows of one source split into
`Example`s; `Source` checks cells for it, and names or counts what is wrong with them.
`choice_examples` makes the yes-or-no rows of a question with several options. The rest happens
here, the same way for every task (as in Burns et al. 2023, appendix A.1, where it says how):

1. Exact repeats of a text are merged. A text that occurs with different labels is dropped.
2. The source's test rows become `test`, its validation rows `val`. What is lacking or unlabelled is
   cut off from what is there, in whole groups and by content alone, so that no seed changes it:
   without a labelled test split validation becomes `test`; without a train split validation is
   training data; `test` gets 20 % and `val` 10 % of the groups of what it is cut from.
3. A group or a text of `test` is dropped from `val` and from training, one of `val` from training.
4. The groups of the training rows are ordered by a hash of the seed, and halved into `weak_train`
   and `strong_train`.
5. Where a class passes 55 % of two (110 % of its even share of more), rows of the larger classes
   are dropped until all are equal; in `test` always. Which ones a hash of seed and row decides.
6. `max_rows` and its like keep the first groups, with equally many rows of each class.

Row ids are hashes of what a model reads: neither the seed nor the order of the file changes them.
All that is dropped is counted in the notes.
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from serving.debate.prompts import DebatePrompts
from w2s import tables
from w2s.errors import UserError
from w2s.tasks._text import mask_content_words, normal
from w2s.tasks.base import PromptTemplate, Task
from w2s.types import SPLITS, Row, Split, TaskData

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

TEST_SHARE = 0.2
"""Share of the groups that becomes `test` where the source has no split for it."""
VAL_SHARE = 0.1
"""Share of the groups that becomes `val` where the source has no split for it."""
BALANCE_LIMIT = 1.1
"""A class may have this many times its even share of the rows: 55 % of two classes."""
MAX_CHARACTERS = 1_000_000
"""Rows that are longer than this are dropped."""
CHUNK_ROWS = 20_000
"""Rows of a frame that are Python objects at a time."""


@dataclass(frozen=True, slots=True)
class Example:
    """One classification row before splitting."""

    prompt: str
    """What a model reads."""
    label: int
    """Ground truth, 0 to num_classes - 1."""
    group: str
    """Examples of one group stay in one split; any text (its hash is what is kept)."""
    options: tuple[str, ...] = ()
    """For a choice among whole texts, the text of each option, one per class."""
    question: str = ""
    """The question alone, where the prompt also proposes an answer."""


class Cells(NamedTuple):
    """The checked cells of one row."""

    row: int
    """Index of the row in its source split, for messages."""
    label: int
    """Class of the row; 0 where no label column was asked for."""
    texts: tuple[str, ...]
    """The text columns, without white space at the ends; none is empty."""
    others: tuple[Any, ...]
    """The other columns, as they are."""


class Source:
    """One source split while it is read: checks its cells, and counts what is dropped."""

    def __init__(self, path: str, split: str | None, subset: str | None = None) -> None:
        self.path = path
        self.split = split
        """Name of the split in the source; None for one file without splits."""
        self.subset = subset
        self.label_column = ""
        """The column that `rows` read labels from."""
        self.num_unlabelled = 0
        """Rows that `rows` skipped because they have no label (empty or -1)."""
        self._dropped: Counter[str] = Counter()

    def drop(self, what: str, number: int = 1) -> None:
        """Count rows or questions for the notes: `what` goes on after the number."""
        self._dropped[what] += number

    def notes(self) -> list[str]:
        """One sentence for each kind of thing that was counted."""
        return [f"{self.name}: {number} {what}." for what, number in self._dropped.items()]

    @property
    def name(self) -> str:
        """How notes call the split."""
        return "source file" if self.split is None else f"source split {self.split}"

    def error(self, row: int, column: str, problem: str) -> UserError:
        """An error that names file, row and column of a cell."""
        where = tables.place(self.path, self.split or "", row, self.subset)
        return UserError(f"{where}, column {column!r}: {problem}")

    def rows(
        self,
        frame: pd.DataFrame,
        texts: Sequence[str],
        *,
        label: str | None = None,
        classes: Mapping[str, int] | None = None,
        others: Sequence[str] = (),
    ) -> Iterator[Cells]:
        """The rows whose texts are not empty and that have a label.

        Args:
            frame: the rows of the source split.
            texts: columns of text. Rows with an empty one are dropped and counted.
            label: column of labels. Rows without one (empty or -1) are counted apart.
            classes: class of each value that a label can have, in lower case; -1 drops the row.
            others: columns that come along unchecked.

        Raises:
            UserError: a text is no text, or a label is not among `classes`.
        """
        self.label_column = label or ""
        known: dict[Any, int | None] = {}
        for start in range(0, len(frame), CHUNK_ROWS):
            part = frame.iloc[start : start + CHUNK_ROWS]
            columns = [part[name].tolist() for name in (*texts, *others)]
            labels = [0] * len(part) if label is None else part[label].tolist()
            for offset, (value, *cells) in enumerate(zip(labels, *columns, strict=True)):
                row = start + offset
                found: int | None = 0
                if label is not None:
                    try:
                        found = known[value]
                    except (KeyError, TypeError):
                        found = self._class(row, label, value, classes or {})
                        known[value] = found
                if found is None:
                    self.num_unlabelled += 1
                    continue
                if found < 0:
                    self.drop(f"rows are labelled {value!r}, which is no class here, and left out")
                    continue
                read = [
                    self.text(row, name, cell) for name, cell in zip(texts, cells, strict=False)
                ]
                if "" in read:
                    self.drop(f"rows have an empty {texts[read.index('')]!r} and were dropped")
                    continue
                yield Cells(row, found, tuple(read), tuple(cells[len(texts) :]))

    def text(self, row: int, column: str, cell: Any) -> str:
        """A cell as text without white space at the ends; empty where there is none."""
        if isinstance(cell, str):
            return cell.strip()
        if cell is None or cell is pd.NA or cell != cell:
            return ""
        if isinstance(cell, int | float | np.integer | np.floating):
            return str(cell)
        raise self.error(row, column, f"found {_shown(cell)}; allowed: text")

    def texts(self, row: int, column: str, cell: Any) -> list[str]:
        """A cell with a list of texts; from csv, a JSON list."""
        cell = _parsed(cell)
        if not isinstance(cell, list | tuple | np.ndarray):
            raise self.error(row, column, f"found {_shown(cell)}; allowed: a list of texts")
        return [self.text(row, column, item) for item in cell]

    def choices(self, row: int, column: str, cell: Any) -> dict[str, str]:
        """A cell `{text = [...], label = [...]}` as a table from label to text."""
        cell = _parsed(cell)
        if not isinstance(cell, dict) or not {"text", "label"} <= set(cell):
            raise self.error(
                row, column, f"found {_shown(cell)}; allowed: {{text = [...], label = [...]}}"
            )
        names, options = (self.texts(row, column, cell[key]) for key in ("label", "text"))
        if len(names) != len(options) or len(set(names)) != len(names):
            raise self.error(row, column, f"{len(options)} texts have the labels {names}")
        return dict(zip(names, options, strict=True))

    def chosen(self, row: int, column: str, answer: Any, names: Sequence[str]) -> int | None:
        """Index of the answer among the names of the options; None where there is no answer."""
        name = class_name(answer)
        if name in ("", "-1") and name not in names:
            self.num_unlabelled += 1
            return None
        self.label_column = column
        if name not in (lowered := [option.casefold() for option in names]):
            raise self.error(
                row, column, f"found {_shown(answer)}; allowed: {', '.join(map(repr, names))}"
            )
        return lowered.index(name)

    def _class(self, row: int, column: str, value: Any, classes: Mapping[str, int]) -> int | None:
        name = class_name(value)
        if name in classes:
            return classes[name]
        if name in ("", "-1"):
            return None
        raise self.error(
            row, column, f"found {_shown(value)}; allowed: {', '.join(map(repr, classes))}"
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its options, from one row of a source."""

    stem: str
    """The prompt up to the answer, which is put at its end."""
    group: str
    """What keeps questions together: the question itself, or what several of them are about."""
    right: tuple[str, ...]
    """Right answers."""
    wrong: tuple[str, ...]
    """Wrong answers; a right one among them is left out and counted."""

    @classmethod
    def choice(cls, stem: str, group: str, options: Sequence[str], right: int) -> "Question":
        """A question one of whose options is right, named by its index."""
        wrong = (*options[:right], *options[right + 1 :])
        return cls(stem=stem, group=group, right=(options[right],), wrong=wrong)


def choice_examples(questions: Iterable[Question], source: Source, seed: int) -> Iterator[Example]:
    """Equally many right (1) and wrong (0) examples a question: `stem` with one option.

    One wrong answer is drawn for the right one, by a hash of seed, question and answer. Rows that
    ask the same question (whatever its case and punctuation) are merged, with all their answers.
    Questions without a right or without a wrong answer are dropped and counted.
    """
    merged: dict[str, tuple[str, str, set[str], set[str]]] = {}
    for question in questions:
        name = normal(question.stem)
        right = {text for text in question.right if text}
        wrong = {text for text in question.wrong if text}
        if set(map(_spelled, right)) & set(map(_spelled, wrong)):
            source.drop("rows have the right answer among the distractors, where it was dropped")
        if name in merged:
            source.drop("rows repeat a question and were merged with it")
            stem, group, other_right, other_wrong = merged[name]
            # Copies may differ in case or punctuation: one form, whatever their order.
            merged[name] = (
                min(stem, question.stem),
                min(group, question.group),
                other_right | right,
                other_wrong | wrong,
            )
        else:
            merged[name] = (question.stem, question.group, right, wrong)

    def draw(name: str, options: Iterable[str]) -> list[str]:
        one_spelling = {_spelled(option): option for option in sorted(options)}
        return sorted(one_spelling.values(), key=lambda option: digest(str(seed), name, option))

    for name, (stem, group, right, wrong) in merged.items():
        spelled = set(map(_spelled, right))
        chosen_right = draw(name, right)
        chosen_wrong = draw(name, (text for text in wrong if _spelled(text) not in spelled))
        number = min(len(chosen_right), len(chosen_wrong))
        if not number:
            kind = "wrong" if chosen_right else "right"
            source.drop(f"questions without a {kind} answer were dropped")
        for options, label in ((chosen_right, 1), (chosen_wrong, 0)):
            for option in options[:number]:
                yield Example(f"{stem}{option}", label, group, question=_unanswered(stem))


def _unanswered(stem: str) -> str:
    """A question without the mark that an answer follows."""
    return stem.rstrip().removesuffix("A:").rstrip()


class DatasetTask(Task):
    """A task over a table: a hub id, a folder with a file a split, or one file."""

    path: str
    """Hub id, folder with train, validation and test files, or one file, in the hub's columns."""
    subset: str | None = None
    """Configuration of a hub id; in a local folder, the folder or file of that name if any."""
    revision: str | None = None
    """Commit, branch or tag of a hub id."""
    max_rows: int | None = Field(default=None, ge=4)
    """Training rows to keep, both halves together; None: all."""
    max_val_rows: int | None = Field(default=None, ge=2)
    """Rows of `val` to keep; None: all."""
    max_test_rows: int | None = Field(default=None, ge=2)
    """Rows of `test` to keep; None: all."""
    seed: int = Field(default=0, ge=0)
    """Halves the training groups, draws wrong answers and the rows to keep."""

    columns: ClassVar[tuple[str, ...]]
    """Columns that are read."""
    source_splits: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": ("train",),
        "val": ("validation",),
        "test": ("test",),
    }
    """Splits of the source that each part is made of."""
    is_family: ClassVar[bool] = False
    """Whether `subset` names one task of several, and so belongs to their names."""
    hub_lacks: ClassVar[tuple[Part, ...]] = ()
    """Parts that the hub has no split for, or one without labels."""
    instruction: ClassVar[str] = ""
    """What a language model is told of the prompts and their labels, 1 or 0; empty: each prompt
    ends where yes or no comes next."""

    @property
    def title(self) -> str:
        """The kind, and the subset where it names one task of several."""
        usual = type(self).model_fields["subset"].default
        named = self.subset and (self.is_family or self.subset != usual)
        return f"{self.kind}-{self.subset}" if named else self.kind

    def examples(self, frame: pd.DataFrame, source: Source) -> Iterator[Example]:
        """The examples of one source split, any number a row, labels as they come.

        Raises:
            UserError: a value is not what its column allows.
        """
        raise NotImplementedError

    def prompt_template(self) -> PromptTemplate:
        """No or Yes after the question that ends a prompt, or 0 or 1 as the instruction says."""
        if self.instruction:
            return PromptTemplate(instruction=self.instruction)
        return PromptTemplate(question="{prompt}", labels=(" No", " Yes"))

    def debate_prompts(self) -> DebatePrompts:
        """Positions by the words of the two labels; a proposed answer is correct or incorrect."""
        labels = [label.strip() for label in self.prompt_template().labels]
        if labels == ["0", "1"] or len(labels) != 2:
            return DebatePrompts()
        no, yes = (f"option {label}" if len(label) == 1 else label for label in labels)
        return DebatePrompts(
            task=f"Here is a question whose answer is {no} or {yes}.",
            correct_name=yes,
            incorrect_name=no,
            correct_label=f" {yes}",
            incorrect_label=f" {no}",
        )

    def identity_fields(self) -> Iterable[str]:
        """Where the data lie is no identity: their fingerprint goes beside the task."""
        return [name for name in type(self).model_fields if name != "path"]

    def fingerprint(self) -> str:
        """Digest of the splits of the source that are read."""
        found = self._found()
        names = [""] if found is None else [name for part in PARTS for name in found[part]]
        return tables.fingerprint(self.path, names, self.revision, self.subset)

    def load(self) -> TaskData:
        """Read, mend, split and balance; the notes count what was dropped.

        Raises:
            UserError: the data cannot be read, a value is wrong, a class or a split is empty.
        """
        notes: list[str] = []
        parts = _complete(self._parts(notes), notes)
        weak, strong = self._halves(parts["train"])
        rows: dict[Split, list[Row]] = {
            "weak_train": weak,
            "strong_train": strong,
            "val": parts["val"],
            "test": parts["test"],
        }
        half = None if self.max_rows is None else self.max_rows // 2
        limits: dict[Split, int | None] = {
            "weak_train": half,
            "strong_train": half,
            "val": self.max_val_rows,
            "test": self.max_test_rows,
        }
        for split in SPLITS:
            self._check_classes(split, rows[split], parts)
            rows[split] = self._balanced(split, rows[split], notes)
            rows[split] = self._limited(split, rows[split], limits[split], notes)
        return TaskData(rows=rows, notes=notes)

    def mask_transcript(self, transcript: str) -> str:
        """The transcript with numbered markers for content words."""
        return mask_content_words(transcript)

    def _found(self) -> dict[Part, tuple[str, ...]] | None:
        """The source splits that are there, by part; None for one file without splits."""
        on_hub = tables.locate(self.path, self.subset) is None
        wanted: dict[Part, tuple[str, ...]] = {
            part: () if on_hub and part in self.hub_lacks else self.source_splits[part]
            for part in PARTS
        }
        names = [name for part in PARTS for name in wanted[part]]
        found = tables.splits(self.path, names, self.subset)
        if found is None:
            return None
        return {part: tuple(name for name in wanted[part] if name in found) for part in PARTS}

    def _parts(self, notes: list[str]) -> dict[Part, list[Row]]:
        """The labelled rows of the source by part; a part without any is left out."""
        found = self._found()
        if found is None:
            rows = self._read([None], notes)
            if not rows:
                raise UserError(f"data {self.path!r} have no usable row; {' '.join(notes)}")
            return {"train": rows}
        parts: dict[Part, list[Row]] = {}
        for part in PARTS:
            if found[part] and (rows := self._read(found[part], notes)):
                parts[part] = rows
        if not parts:
            raise UserError(f"data {self.path!r} have no usable row; {' '.join(notes)}")
        return parts

    def _read(self, names: Sequence[str | None], notes: list[str]) -> list[Row]:
        """The rows of some source splits, each text once; none if they have no labels."""
        rows: dict[str, Row] = {}
        mixed: set[str] = set()
        for name in names:
            source = Source(self.path, name, self.subset)
            frame = tables.read(self.path, name or "", self.columns, self.revision, self.subset)
            found = 0
            for example in self.examples(frame, source):
                found += 1
                self._add(example, rows, mixed, source)
            if source.num_unlabelled:
                what = "were dropped" if found else "are not used"
                source.drop(f"rows without a label {what}", source.num_unlabelled)
            notes += source.notes()
            labels = {row.label for row in rows.values()}
            if found and len(labels) == 1 and not mixed:
                column = f", column {source.label_column!r}" if source.label_column else ""
                raise UserError(
                    f"data {self.path!r}, {source.name}{column}: all {len(rows)} usable rows are "
                    f"of class {labels.pop()}; a task needs rows of every class"
                )
        if mixed:
            where = ", ".join(name or self.path for name in names)
            notes.append(
                f"{where}: {len(mixed)} texts occur with different labels and were dropped."
            )
        return [row for row_id, row in rows.items() if row_id not in mixed]

    def _add(self, example: Example, rows: dict[str, Row], mixed: set[str], source: Source) -> None:
        """Put one example among the rows, or count why not."""
        if max(map(len, (example.prompt, *example.options))) > MAX_CHARACTERS:
            source.drop(f"rows are longer than {MAX_CHARACTERS:,} characters and were dropped")
            return
        try:
            row_id = digest(example.prompt, *example.options)
            group = digest(example.group)
        except UnicodeEncodeError:
            source.drop("rows hold characters that are not Unicode text and were dropped")
            return
        before = rows.get(row_id)
        if before is not None:
            if before.label != example.label:
                mixed.add(row_id)
            else:
                source.drop("rows repeat a text and were dropped")
            group = min(group, before.group)
        rows[row_id] = Row(
            row_id, group, example.prompt, example.label, example.options, example.question
        )

    def _halves(self, rows: list[Row]) -> tuple[list[Row], list[Row]]:
        """The rows of every other group, and the rest, in an order that follows the seed."""
        strong = set(_shuffled(str(self.seed), {row.group for row in rows})[1::2])
        return (
            [row for row in rows if row.group not in strong],
            [row for row in rows if row.group in strong],
        )

    def _check_classes(
        self, split: Split, rows: list[Row], parts: Mapping[Part, list[Row]]
    ) -> None:
        usable = ", ".join(f"{len(parts[part])} {part}" for part in PARTS)
        if not rows:
            raise UserError(
                f"data {self.path!r} leave the split {split!r} of task {self.kind!r} empty: "
                f"{usable} rows are usable; give it more rows"
            )
        counts = Counter(row.label for row in rows)
        missing = [label for label in range(self.num_classes) if not counts[label]]
        if missing:
            raise UserError(
                f"data {self.path!r} leave the split {split!r} of task {self.kind!r} without a row "
                f"of class {', '.join(map(str, missing))}; its {len(rows)} rows are of class "
                f"{', '.join(map(str, sorted(counts)))} ({usable} rows are usable)"
            )

    def _balanced(self, split: Split, rows: list[Row], notes: list[str]) -> list[Row]:
        """Equally many rows of each class, where one has too many or the split is `test`."""
        counts = Counter(row.label for row in rows)
        smallest, largest = min(counts.values()), max(counts.values())
        within = largest * self.num_classes <= BALANCE_LIMIT * len(rows)
        if smallest == largest or (within and split != "test"):
            return rows
        kept: set[str] = set()
        for label in counts:
            ids = [row.row_id for row in rows if row.label == label]
            kept.update(_shuffled(str(self.seed), ids)[:smallest])
        shares = " to ".join(str(counts[label]) for label in sorted(counts))
        notes.append(
            f"{split}: {len(rows) - len(kept)} of {len(rows)} rows were dropped to balance the "
            f"classes ({shares})."
        )
        return [row for row in rows if row.row_id in kept]

    def _limited(
        self, split: Split, rows: list[Row], limit: int | None, notes: list[str]
    ) -> list[Row]:
        """The rows in an order that tells nothing; the first of each class if there is a limit."""
        groups = _shuffled(str(self.seed), {row.group for row in rows})
        place = {group: index for index, group in enumerate(groups)}
        rows = sorted(rows, key=lambda row: (place[row.group], row.row_id))
        if limit is None or len(rows) <= limit:
            return rows
        left = dict.fromkeys(range(self.num_classes), max(1, limit // self.num_classes))
        kept = []
        for row in rows:
            if left[row.label]:
                left[row.label] -= 1
                kept.append(row)
        notes.append(f"{split}: {len(kept)} of {len(rows)} rows were kept.")
        return kept


def digest(*parts: str) -> str:
    """First 16 hex digits of the sha256 of some texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _shuffled(salt: str, digests: Iterable[str]) -> list[str]:
    """Digests in an order that salt and digests alone decide.

    They are sorted by a hash of both: the finaliser of SplitMix64 (Steele et al. 2014), which numpy
    does at once, and which is one to one: there are no ties.
    """
    names = list(digests)
    hashes = np.array([int(name, 16) for name in names], dtype=np.uint64)
    hashes ^= np.uint64(int(digest(salt), 16))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    hashes ^= hashes >> np.uint64(31)
    return [names[index] for index in np.argsort(hashes)]


def _complete(parts: dict[Part, list[Row]], notes: list[str]) -> dict[Part, list[Row]]:
    """All three parts, disjoint: what is lacking is cut off from train, in whole groups."""
    if "train" not in parts:
        # Validation is the nearest thing to training data; a test split stays what it is.
        origin: Part = "val" if "val" in parts else "test"
        parts["train"] = parts.pop(origin)
        notes.append(f"no labelled train split: {origin} was used as train.")
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
        notes.append("no labelled test split: val was used as test.")
    _cut(parts, "test", TEST_SHARE, notes)
    _drop_shared(parts, "train", "test", notes)
    _cut(parts, "val", VAL_SHARE, notes)
    _drop_shared(parts, "train", "val", notes)
    _drop_shared(parts, "val", "test", notes)
    return parts


def _cut(parts: dict[Part, list[Row]], part: Part, share: float, notes: list[str]) -> None:
    """Make a part that is lacking from a share of the groups of train."""
    if part in parts:
        return
    groups = _shuffled("cut", {row.group for row in parts["train"]})
    chosen = set(groups[: max(1, round(share * len(groups)))])
    parts[part] = [row for row in parts["train"] if row.group in chosen]
    parts["train"] = [row for row in parts["train"] if row.group not in chosen]
    notes.append(
        f"no labelled {part} split: {len(chosen)} of {len(groups)} groups of train were cut off "
        f"for it ({len(parts[part])} rows)."
    )


def _drop_shared(
    parts: dict[Part, list[Row]], part: Part, held_out: Part, notes: list[str]
) -> None:
    """Remove from a part the groups and texts of another; leave a note."""
    groups = {row.group for row in parts[held_out]}
    ids = {row.row_id for row in parts[held_out]}
    kept = [row for row in parts[part] if row.group not in groups and row.row_id not in ids]
    shared = {row.group for row in parts[part]} - {row.group for row in kept}
    if len(kept) < len(parts[part]):
        notes.append(
            f"{len(shared)} groups of {held_out} are also in {part}: "
            f"{len(parts[part]) - len(kept)} rows were dropped from {part}."
        )
        parts[part] = kept


def _spelled(option: str) -> str:
    """When two options are the same answer: "Na+" and "Na-" are not, "DNA" and "dna " are."""
    return " ".join(option.casefold().split())


def class_name(value: Any) -> str:
    """A label as the lower-case text that classes are named by."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().casefold()


def _parsed(cell: Any) -> Any:
    """A cell of a csv file that holds JSON, parsed; any other as it is."""
    if isinstance(cell, str):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(cell)
    return cell


def _shown(value: Any) -> str:
    """A value for a message, cut to a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
