"""What a finished sweep leaves for people: plain values; no cluster, torch or store is needed.

`SweepResults` is the whole: a `SweepSummary` (what was swept), a `TrialResult` per point of the
space, the scored rows of every evaluation, training curves, scored checkpoints, the difficulty of
test rows, what transcripts did to judges, and some transcripts to read. It is a folder of JSON and
parquet files (`save`, `load`), logged whole to the sweep's parent run; the report is made from
nothing else.

Rows are kept once per evaluation, by the key of its stage, and trials name keys: a floor that forty
trials share is stored once.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, JsonValue, TypeAdapter

from sweeps.events import StageRecord
from w2s.errors import UserError
from w2s.spec import Spec
from w2s.stages.checkpoints import CHOICES, ComparedCheckpoints
from w2s.stages.recursion import Generation

SUMMARY_FILE = "summary.json"
TRIALS_FILE = "trials.json"
ROWS_FILE = "rows.parquet"
CURVES_FILE = "curves.parquet"
CHECKPOINTS_FILE = "checkpoints.parquet"
DIFFICULTY_FILE = "difficulty.parquet"
GENERATIONS_FILE = "generations.parquet"
OVERSIGHT_FILE = "oversight.parquet"
TRANSCRIPTS_FILE = "transcripts.json"

REPORTED_SPLITS = ("val", "test")

Role = Literal["floor", "supervisor", "student", "ceiling"]
ROLES: tuple[Role, ...] = ("floor", "supervisor", "student", "ceiling")
Hyperparameter = float | int | str | bool


class SeedKeys(Spec):
    """The evaluate stages of one trial at one seed."""

    seed: int
    """Replicate."""
    floor: str
    """Key of the weak model's evaluation, finetuned on ground truth without assistance."""
    supervisor: str
    """Key of the assisted supervisor's evaluation; the floor's key where nothing assists."""
    student: str
    """Key of the student's evaluation."""
    ceiling: str
    """Key of the evaluation of the strong model finetuned on ground truth."""
    members: tuple[str, ...] = ()
    """Keys of the evaluations of an ensemble's members; empty for other methods."""
    arms: dict[str, str] = Field(default_factory=dict)
    """Keys of the evaluations of what else the method has scored, by name."""
    oversight: tuple[str, ...] = ()
    """Keys of what the supervisors' transcripts did to them; empty where none was read."""

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Every key of an evaluation."""
        roles = (self.floor, self.supervisor, self.student, self.ceiling)
        return (*roles, *self.members, *self.arms.values())


class TrialResult(Spec):
    """One point of the sweep and how it ended."""

    trial_id: str
    """Digest of the point (16 hex digits)."""
    block: str
    """Name of the sweep's block."""
    task: str
    """Label of the task."""
    weak: str
    """Rung of the supervisor."""
    strong: str
    """Rung of student and ceiling."""
    method: str
    """Label of the method, such as `debate(weak)`."""
    method_kind: str
    """Kind of the method, such as `debate`."""
    loss: str
    """Label of the student's loss, such as `confidence`."""
    hyperparameters: dict[str, Hyperparameter] = Field(default_factory=dict)
    """Searched values by path, such as `loss.max_weight`; empty for a grid point."""
    searched: bool = False
    """Whether the point came from a search; the report shows the best on `val` of each cell."""
    status: Literal["done", "failed", "stopped"] = "done"
    """`stopped`: a scheduler ended it between seeds."""
    cause: str = ""
    """Type and message of the error of a failed trial, one line."""
    objective: float | None = None
    """Mean over finished seeds of the student's score on `val`; None: no seed finished."""
    keys: tuple[SeedKeys, ...] = ()
    """Finished seeds, in the order in which they ran."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Finished seeds."""
        return tuple(keys.seed for keys in self.keys)

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Keys of every evaluation of the trial, each once."""
        return tuple(dict.fromkeys(key for seed in self.keys for key in seed.evaluations))

    @property
    def name(self) -> str:
        """Short name for tables: `xs>xl naive xent`."""
        return f"{self.weak}>{self.strong} {self.method} {self.loss}"


class RungSummary(Spec):
    """One model of the ladder."""

    name: str
    """Name of the rung."""
    num_parameters: int = Field(ge=0)
    """All parameters of the base model."""
    num_non_embedding: int = Field(ge=0)
    """Parameters without input and output embeddings: the size on the figures' axes."""


class TaskSummary(Spec):
    """One task and what its loader had to say."""

    name: str
    """Label of the task, as in `TrialResult.task`."""
    num_rows: dict[str, int] = Field(default_factory=dict)
    """Rows by split."""
    num_classes: int = Field(default=2, ge=2)
    """Number of classes."""
    notes: tuple[str, ...] = ()
    """Leaks found and dropped, rows balanced away, sources used."""


class SweepSummary(Spec):
    """What was swept, when, and how to do it again."""

    name: str
    """Name of the sweep."""
    sweep_key: str
    """Digest of the whole resolved sweep."""
    description: str = ""
    """What it is for, one paragraph."""
    command: str
    """Command line that makes these results."""
    started: float
    """Unix time in seconds at which the run began that finished these results."""
    finished: float
    """Unix time in seconds at which the last trial ended."""
    seeds: tuple[int, ...]
    """Seeds asked for."""
    objective: str = "accuracy"
    """Score of the student on `val` that a search maximises."""
    tasks: tuple[TaskSummary, ...] = Field(min_length=1)
    """Tasks in the order of the file."""
    ladder: tuple[RungSummary, ...] = Field(min_length=1)
    """Models, smallest first."""
    blocks: tuple[str, ...] = ()
    """Names of the blocks, in the order of the file."""
    stages: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Number of stages by kind and end state (`cached`, `done`, `failed`) in this run."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Versions of packages and platform, by name."""
    spec: dict[str, JsonValue] = Field(default_factory=dict)
    """The resolved sweep, every default written out."""


class Speech(Spec):
    """One turn of a transcript, as a reader sees it."""

    side: str
    """Who spoke: `A`, `B` or `judge`."""
    position: str
    """What the side defends: `correct`, `incorrect`, or empty for a judge's question."""
    text: str
    """The argument."""
    model: str
    """Model that spoke, by the name of its rung or speaker."""
    round: int = 0
    """Turns of one round have not read each other."""
    thinking: str = ""
    """What the speaker thought, hidden from all others."""
    candidates: tuple[str, ...] = ()
    """Texts among which this one was chosen; empty where there was one."""


class TranscriptExample(Spec):
    """What a judge read about one row of `test`, and what it made of it."""

    row_id: str
    """Row it is about."""
    task: str
    """Label of the task."""
    weak: str
    """Rung of the judge."""
    strong: str
    """Rung of the student."""
    method: str
    """Label of the method."""
    trial_id: str
    """Trial in which the judge supervises."""
    seed: int
    """Replicate."""
    question: str
    """The question with the proposed answer."""
    label: int | None
    """1: the proposed answer is correct, 0: it is not; None: nobody knows."""
    prob_with: float | None = Field(default=None, ge=0, le=1)
    """Probability that it is correct, by the judge that read this; None: nobody judged."""
    prob_without: float | None = Field(default=None, ge=0, le=1)
    """The same by the judge that did not."""
    verdict: str = ""
    """What the judge answered, where it is asked for a verdict: INVALID if it could not be read."""
    text: str = ""
    """What the judge read, where it is no turns of speakers."""
    turns: tuple[Speech, ...] = ()
    """The speeches in order."""

    @property
    def truth(self) -> str:
        """The truth about the proposed answer, in a word."""
        return {0: "incorrect", 1: "correct", None: "unknown"}[self.label]


class TranscriptCount(Spec):
    """How many of a method's transcripts are among the examples."""

    task: str
    """Label of the task."""
    weak: str
    """Rung of the judge."""
    strong: str
    """Rung of the student."""
    method: str
    """Label of the method."""
    num_shown: int
    """Among the examples."""
    num_made: int
    """Of test rows, over all seeds and members."""


class Transcripts(Spec):
    """Transcripts to read."""

    counts: tuple[TranscriptCount, ...] = ()
    """How many there are, by method."""
    examples: tuple[TranscriptExample, ...] = ()
    """A sample of them."""


_FILES = (
    *(SUMMARY_FILE, TRIALS_FILE, TRANSCRIPTS_FILE),
    *(ROWS_FILE, CURVES_FILE, CHECKPOINTS_FILE, DIFFICULTY_FILE, OVERSIGHT_FILE, GENERATIONS_FILE),
)
_TRIALS = TypeAdapter(tuple[TrialResult, ...])


@dataclass(frozen=True, slots=True)
class SweepResults:
    """Everything the report is made of."""

    summary: SweepSummary
    """What was swept."""
    trials: tuple[TrialResult, ...]
    """Every point of the space, failed ones included."""
    rows: pd.DataFrame
    """One line per evaluation and row, as `pooled_rows` makes it."""
    curves: pd.DataFrame = field(default_factory=lambda: pooled_curves(()))
    """One line per stage, step and metric, as `pooled_curves` makes it."""
    checkpoints: pd.DataFrame = field(default_factory=lambda: pooled_checkpoints({}))
    """One line per evaluation and checkpoint, as `pooled_checkpoints` makes it."""
    difficulty: pd.DataFrame = field(default_factory=lambda: difficulties({}))
    """One line per task and test row whose difficulty was measured, as `difficulties` makes it."""
    generations: pd.DataFrame = field(default_factory=lambda: pooled_generations({}))
    """One line per evaluation of a recursion's student and generation, as `pooled_generations`
    makes it."""
    oversight: pd.DataFrame = field(default_factory=lambda: pooled_oversight(()))
    """One line per judge and test row with a transcript, as `pooled_oversight` makes it."""
    transcripts: Transcripts = field(default_factory=Transcripts)
    """Transcripts to read."""

    def save(self, folder: Path) -> None:
        """Write the files into a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY_FILE).write_text(self.summary.model_dump_json(indent=1), encoding="utf-8")
        (folder / TRIALS_FILE).write_bytes(_TRIALS.dump_json(self.trials, indent=1))
        (folder / TRANSCRIPTS_FILE).write_text(
            self.transcripts.model_dump_json(exclude_defaults=True), encoding="utf-8"
        )
        self.rows.to_parquet(folder / ROWS_FILE, index=False)
        self.curves.to_parquet(folder / CURVES_FILE, index=False)
        self.checkpoints.to_parquet(folder / CHECKPOINTS_FILE, index=False)
        self.difficulty.to_parquet(folder / DIFFICULTY_FILE, index=False)
        self.generations.to_parquet(folder / GENERATIONS_FILE, index=False)
        self.oversight.to_parquet(folder / OVERSIGHT_FILE, index=False)

    @classmethod
    def load(cls, folder: Path) -> "SweepResults":
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing.
        """
        for name in _FILES:
            if not (folder / name).is_file():
                raise UserError(
                    f"the results of this sweep have no {name}; run the sweep again to complete "
                    "them (finished stages are not recomputed)"
                )
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        return cls(
            summary=SweepSummary.model_validate(summary),
            trials=_TRIALS.validate_json((folder / TRIALS_FILE).read_bytes()),
            rows=pd.read_parquet(folder / ROWS_FILE),
            curves=pd.read_parquet(folder / CURVES_FILE),
            checkpoints=pd.read_parquet(folder / CHECKPOINTS_FILE),
            difficulty=pd.read_parquet(folder / DIFFICULTY_FILE),
            generations=pd.read_parquet(folder / GENERATIONS_FILE),
            oversight=pd.read_parquet(folder / OVERSIGHT_FILE),
            transcripts=Transcripts.model_validate_json((folder / TRANSCRIPTS_FILE).read_bytes()),
        )


class _Words:
    """Numbers of the words of one column, in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def numbers(self, words: Iterable[str]) -> NDArray[np.int32]:
        codes, uniques = pd.factorize(np.asarray(words, dtype=object))
        known = [self._numbers.setdefault(str(word), len(self._numbers)) for word in uniques]
        return np.array(known, dtype=np.int32)[codes]

    def column(self, numbers: list[NDArray[np.int32]]) -> pd.Categorical:
        joined = np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.int32)
        return pd.Categorical.from_codes(joined, categories=list(self._numbers))


def pooled_rows(frames: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """One frame from the scored rows of many evaluations, `val` and `test` only.

    Frames are taken one at a time and shrunk, so that thousands of them fit into memory.

    Args:
        frames: key of the evaluate stage, and split, row_id, group, label, predicted, correct,
            prob_0 ...; other columns are left out.

    Returns:
        key, split, row_id, group, label, predicted, correct, prob_0 ... (NaN for classes that a
        task does not have).
    """
    words = {name: _Words() for name in ("key", "split", "row_id", "group")}
    numbers: dict[str, list[NDArray[np.int32]]] = {name: [] for name in words}
    values: list[pd.DataFrame] = []
    for key, frame in frames:
        part = frame.loc[frame["split"].isin(REPORTED_SPLITS)]
        for name in ("split", "row_id", "group"):
            numbers[name].append(words[name].numbers(part[name].tolist()))
        numbers["key"].append(words["key"].numbers([key] * len(part)))
        scored = {
            "label": np.asarray(part["label"], dtype=np.int32),
            "predicted": np.asarray(part["predicted"], dtype=np.int32),
            "correct": np.asarray(part["correct"], dtype=bool),
        }
        probabilities = {
            name: np.asarray(part[name], dtype=np.float32)
            for name in part.columns
            if name.startswith("prob_")
        }
        values.append(pd.DataFrame(scored | probabilities))
    pooled = pd.concat(values, ignore_index=True) if values else pd.DataFrame(columns=_SCORED)
    named = {name: words[name].column(numbers[name]) for name in words}
    probabilities = sorted(
        (name for name in pooled.columns if name not in _SCORED), key=lambda name: int(name[5:])
    )
    return pd.DataFrame(named).join(pooled[[*_SCORED, *probabilities]])


_SCORED = ["label", "predicted", "correct"]


def pooled_checkpoints(compared: Mapping[str, ComparedCheckpoints]) -> pd.DataFrame:
    """Checkpoints of many evaluations as one frame.

    Args:
        compared: by key of the evaluate stage.

    Returns:
        key, step, epoch, test_accuracy, val_agreement (NaN without a supervisor), and last,
        best_val, oracle: whether that rule chooses this checkpoint.
    """
    lines = [
        (
            key,
            point.step,
            point.epoch,
            point.test_accuracy,
            np.nan if point.val_agreement is None else point.val_agreement,
            *(run.steps.get(choice) == point.step for choice in CHOICES),
        )
        for key, run in compared.items()
        for point in run.curve
    ]
    scores = ["epoch", "test_accuracy", "val_agreement"]
    types = {"key": "str", "step": "int64", **dict.fromkeys(scores, "float64")}
    types |= dict.fromkeys(CHOICES, "bool")
    return pd.DataFrame(lines, columns=list(types)).astype(types)


def pooled_generations(found: Mapping[str, Sequence[Generation]]) -> pd.DataFrame:
    """Generations of many recursions as one frame.

    Args:
        found: by key of the evaluate stage.

    Returns:
        key, number, agreement (share of `val`), kept_share (NaN: no aligner learnt of it),
        selected.
    """
    lines = [
        (
            key,
            each.number,
            each.agreement,
            np.nan if each.kept_share is None else each.kept_share,
            each.selected,
        )
        for key, generations in found.items()
        for each in generations
    ]
    types = {"key": "str", "number": "int64", "agreement": "float64", "kept_share": "float64"}
    types["selected"] = "bool"
    return pd.DataFrame(lines, columns=list(types)).astype(types)


def difficulties(found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Difficulty of the test rows of many tasks as one frame.

    Args:
        found: by label of the task: split, row_id, difficulty (number of rungs that fail: the index
            of the smallest from which on all are right).

    Returns:
        task, row_id, difficulty.
    """
    frames = [
        frame.loc[frame["split"] == "test", ["row_id", "difficulty"]].assign(task=task)
        for task, frame in found.items()
    ]
    columns = ["task", "row_id", "difficulty"]
    pooled = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
    return pooled.loc[:, columns].astype({"task": "str", "row_id": "str", "difficulty": "int64"})


def pooled_oversight(
    frames: Iterable[tuple[str, pd.DataFrame, Mapping[str, str], bool]],
) -> pd.DataFrame:
    """What many judges made of transcripts about test rows, as one frame.

    Args:
        frames: key of the oversight stage; its rows; names of models by their keys; and whether its
            transcripts are a control, whose words are not about the row.

    Returns:
        key, control, and the columns of `w2s.stages.oversight.overseen_rows` but split, with names
        of models in the place of their keys.
    """
    parts = [
        frame.loc[frame["split"] == "test"]
        .drop(columns="split")
        .assign(
            key=key,
            control=control,
            **{
                name: frame[name].map(lambda model, names=names: names.get(model, model))
                for name in ("model_correct", "model_incorrect")
            },
        )
        for key, frame, names, control in frames
    ]
    types = {
        **dict.fromkeys(("key", "row_id", "group", "verdict"), "category"),
        **dict.fromkeys(("position_a", "position_last"), "category"),
        **dict.fromkeys(("model_correct", "model_incorrect"), "category"),
        **dict.fromkeys(("label", "words_correct", "words_incorrect"), "int32"),
        **dict.fromkeys(("prob_with", "prob_without"), "float32"),
        "control": "bool",
    }
    pooled = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(types))
    return pooled.loc[:, list(types)].astype(types)


def pooled_curves(records: Iterable[StageRecord]) -> pd.DataFrame:
    """Every metric of every curve as one long frame: key, name, kind, step, metric, value."""
    lines = [
        (record.key, record.name, record.kind, point.step, metric, float(value))
        for record in records
        for point in record.curve
        for metric, value in point.metrics.items()
    ]
    frame = pd.DataFrame(lines, columns=["key", "name", "kind", "step", "metric", "value"])
    frame = frame.astype({"step": "int64", "value": "float64"})
    return frame.astype(dict.fromkeys(("key", "name", "kind", "metric"), "category"))
