"""What tasks over published data sets share: from the rows of a source to four splits.

A subclass of `DatasetTask` names the columns it reads and turns the rows of one `Source` split into
`Example`s. The rest happens here, the same way for every task (as in Burns et al. 2023, appendix
A.1, where it says how):

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

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from serving.debate.prompts import DebatePrompts
from w2s import tables
from w2s.errors import UserError
from w2s.tasks._source import Example, Source, digest
from w2s.tasks._text import mask_content_words
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
