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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field, JsonValue, TypeAdapter

from sweeps.pooled import (
    difficulties,
    pooled_checkpoints,
    pooled_curves,
    pooled_generations,
    pooled_oversight,
)
from w2s.errors import UserError
from w2s.spec import Spec

SUMMARY_FILE = "summary.json"
TRIALS_FILE = "trials.json"
ROWS_FILE = "rows.parquet"
CURVES_FILE = "curves.parquet"
CHECKPOINTS_FILE = "checkpoints.parquet"
DIFFICULTY_FILE = "difficulty.parquet"
GENERATIONS_FILE = "generations.parquet"
OVERSIGHT_FILE = "oversight.parquet"
TRANSCRIPTS_FILE = "transcripts.json"

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
