"""What a user sweeps, in one TOML or Python file: a `Sweep`; `sweeps.runtime` says where and how.

`sweeps.load` reads the file; `sweeps.plan` looks for data and models before anything runs.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.protocols.sequential import Sequential
from sweeps.ladder import expanded
from sweeps.space import Distribution, has_field, split_path
from w2s.corpora.base import Corpus
from w2s.losses.base import Loss
from w2s.losses.xent import Xent
from w2s.methods.base import Method
from w2s.methods.naive import Naive
from w2s.models.architecture import Architecture
from w2s.models.source import without_distrust
from w2s.redaction import has_secret
from w2s.spec import OneOf, Spec, describe
from w2s.tasks.base import Task
from w2s.training.config import TrainConfig

OF_LOCAL_SPEAKERS = ("name", "model", "revision", "trust_remote_code")
"""Fields of a speaker without `base_url`."""


class Rung(Spec):
    """One model of the ladder: one from outside, or one that the sweep pretrains."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Short name in tables and in `pairs`."""
    model: str | None = None
    """Folder or hub id of a pretrained model."""
    revision: str | None = None
    """Commit, branch or tag of a hub id: an earlier checkpoint can be the weak model."""
    trust_remote_code: bool = False
    """Whether Python code that comes with that model may run, with your rights; read it first."""
    architecture: Architecture | None = None
    """Shape of a model that the sweep pretrains."""
    corpus: OneOf[Corpus] | None = None
    """What that model reads."""
    seed: int = Field(default=0, ge=0)
    """Pretraining seed."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        pretrained = self.architecture is not None and self.corpus is not None
        if (self.model is None) == (not pretrained) or (
            self.model is not None and (self.architecture or self.corpus)
        ):
            raise ValueError(
                f"rung {self.name!r} needs either `model` (folder or hub id) or both "
                "`architecture` and `corpus`"
            )
        if self.trust_remote_code and self.model is None:
            raise ValueError(f"rung {self.name!r}: `trust_remote_code` is for a `model`")
        return self

    def identity_fields(self) -> Iterable[str]:
        """Whether code may run is part of what is swept where it may."""
        return without_distrust(self)


class SpeakerEntry(Spec):
    """A model that only argues, judges or labels in context: from outside, or behind a URL.

    Everything after `system` says where and on which conditions a server is asked. None of it is
    part of a result's identity.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name by which methods name it."""
    model: str
    """Folder or hub id of a model to be served like a rung; with `base_url` its id there."""
    revision: str | None = None
    """Commit, branch or tag of a hub id; with `base_url` a word of your own that tells versions
    behind one id apart, such as a date."""
    trust_remote_code: bool = False
    """Whether Python code that comes with a model without `base_url` may run, with your rights."""
    base_url: str | None = None
    """URL of an OpenAI-compatible server, such as `https://api.openai.com/v1`."""
    chat: bool = False
    """Whether prompts go as a user's message to `/chat/completions`; else to `/completions`."""
    system: str = ""
    """System message of every chat; empty: none."""
    api_key_variable: str | None = None
    """Environment variable that holds the key; None: the server wants none."""
    top_logprobs: int = Field(default=0, ge=0)
    """Most likely first tokens to ask for when label words are scored (OpenAI gives up to 20); 0
    asks the server to echo the prompt's log-probabilities, which exact scores need."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the field that bounds an answer; newer models of OpenAI want the second."""
    requests_in_flight: int = Field(default=8, ge=1)
    """Requests that wait for an answer at the same time."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests in any 60 seconds at most; None: as many as are in flight."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens in and out in any 60 seconds at most; None: no limit."""
    max_requests: int | None = Field(default=None, ge=1)
    """Budget of the sweep in requests, over all its runs; None: no limit."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Budget of the sweep in tokens, in and out, over all its runs; None: no limit."""
    price_per_million: tuple[float, float] | None = None
    """Price of a million tokens in and of a million out, for the estimate of `w2s plan`."""

    @model_validator(mode="after")
    def _conditions_are_of_a_server(self) -> Self:
        given = [
            name
            for name, field in type(self).model_fields.items()
            if name not in OF_LOCAL_SPEAKERS and getattr(self, name) != field.default
        ]
        if self.base_url is None and given:
            raise ValueError(
                f"speaker {self.name!r}: {', '.join(given)} need `base_url`; without it the model "
                "is a folder or hub id that the sweep serves"
            )
        if self.base_url is not None and self.trust_remote_code:
            raise ValueError(
                f"speaker {self.name!r}: `trust_remote_code` is for a model that the sweep serves; "
                "leave it out beside `base_url`"
            )
        if self.system and not self.chat:
            raise ValueError(f"speaker {self.name!r}: `system` needs `chat = true`")
        return self

    def identity_fields(self) -> Iterable[str]:
        """Whether code may run is part of what is swept where it may."""
        return without_distrust(self)


class Block(Spec):
    """A grid of pairs, methods and losses, each cell searched if a space is given."""

    name: str
    """Name of the block, a section of the report."""
    tasks: tuple[str, ...] = ()
    """Tasks of the block, by the names that `w2s plan` shows; empty: all of the sweep."""
    pairs: Literal["all", "adjacent", "largest", "equal"] | tuple[tuple[str, str], ...] = "all"
    """`all` weak < strong, `adjacent` ones, the `largest` gap, `equal` (weak = strong, a control),
    or a list of [weak, strong]."""
    methods: tuple[OneOf[Method], ...] = Field(default=(Naive(),), min_length=1)
    """Methods by kind or table."""
    losses: tuple[OneOf[Loss], ...] = Field(default=(Xent(),), min_length=1)
    """Losses of the student by kind or table."""
    train: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of all three recipes that differ in this block, such as `mode = "lora"`."""
    supervisor: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of the supervisor's recipe that differ in this block."""
    student: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of the student's recipe that differ in this block; where neither the sweep nor the
    block has a `ceiling`, they hold for ceilings too."""
    ceiling: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of the ceiling's recipe that differ in this block."""
    space: dict[str, Distribution] = Field(default_factory=dict)
    """Hyperparameters to search, by path (`loss.max_weight`, `student.lora.rank`); a `loss.` path
    holds for the losses that have the field."""
    num_trials: int = Field(default=0, ge=0)
    """Trials of the search per cell of the grid; needs `space`."""

    @model_validator(mode="after")
    def _search_is_whole(self) -> Self:
        if bool(self.space) != (self.num_trials > 0):
            raise ValueError(
                f"block {self.name!r}: `space` and `num_trials` go together; found only one of them"
            )
        owners: dict[str, list[type[Spec]]] = {
            "loss": [type(loss) for loss in self.losses],
            "method": [type(method) for method in self.methods],
            "student": [TrainConfig],
        }
        for path in self.space:
            prefix, field = split_path(path)
            fields = sorted({name for owner in owners[prefix] for name in owner.model_fields})
            if not any(has_field(owner, field) for owner in owners[prefix]):
                raise ValueError(
                    f"block {self.name!r}: no {prefix} of the block has a field {field!r}; "
                    f"fields: {', '.join(fields)}"
                )
        return self


def texts_of(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested tables and lists, with its dotted path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in items:
            yield from texts_of(inner, f"{path}.{name}" if path else str(name))


class Recipes(NamedTuple):
    """How the three roles are trained."""

    supervisor: TrainConfig
    """Weak supervisors."""
    student: TrainConfig
    """Students."""
    ceiling: TrainConfig
    """Ceilings."""


def changed(recipe: TrainConfig, where: str, *changes: dict[str, Any]) -> TrainConfig:
    """A recipe with some fields changed, those inside its tables too.

    Raises:
        ValueError: a field or a value that a recipe does not have; `where` begins the message.
    """
    table = recipe.model_dump()
    for change in changes:
        for name, value in change.items():
            inner = table.get(name)
            table[name] = (
                {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
            )
    try:
        return TrainConfig.model_validate(table)
    except ValidationError as error:
        raise ValueError("; ".join(describe(error, TrainConfig, f"{where}: "))) from error


class Sweep(Spec):
    """A whole experiment: everything that can change a number."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the sweep: the MLflow experiment and the report."""
    description: str = ""
    """One paragraph for the report."""
    tasks: tuple[OneOf[Task], ...] = Field(min_length=1)
    """Tasks; a single one may be written as `[task]`."""
    ladder: tuple[Rung, ...] = Field(min_length=1)
    """Models, smallest first."""
    speakers: tuple[SpeakerEntry, ...] = ()
    """Models beside the ladder that methods can name as debater, judge or teacher in context."""
    supervisor: TrainConfig = TrainConfig()
    """Recipe of weak supervisors."""
    student: TrainConfig = TrainConfig()
    """Recipe of students; a search may change it."""
    ceiling: TrainConfig | None = None
    """Recipe of ceilings; None: that of `student` as written here."""
    protocol: OneOf[DebateProtocol] = Sequential()
    """How debates go."""
    debate_prompts: dict[str, JsonValue] = Field(default_factory=dict)
    """What debaters and judges of debates read, where it is not the task's own: fields of
    `DebatePrompts`, for all tasks or, in a table named after a task, for that one."""
    blocks: tuple[Block, ...] = Field(min_length=1)
    """What is compared."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Replicates of every point."""
    objective: Literal["accuracy", "auroc"] = "accuracy"
    """Score of the student on `val` that a search maximises."""
    search_seed: int = 0
    """Seed of the search."""
    scheduler: Literal["none", "median", "asha"] = "none"
    """Tune scheduler that may stop a trial between its seeds."""
    effect: float = Field(default=0.01, gt=0, lt=1)
    """Difference of accuracies that the comparison should be able to see; the report says where
    the test set is too small for it."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, dict) and "task" in value:
            if "tasks" in value:
                raise ValueError("give either `[task]` or `[[tasks]]`, not both")
            value = {**value, "tasks": [value["task"]]}
            del value["task"]
        if isinstance(value, dict) and "ladder" in value:
            value = {**value, "ladder": expanded(value["ladder"])}
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds must be distinct and 0 or more; found {list(seeds)}")
        return seeds

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Self:
        for path, text in texts_of(self.model_dump(mode="json")):
            if has_secret(text):
                raise ValueError(
                    f"{path} holds a secret (a key, or user and password of a URL), and a sweep "
                    "is logged whole; put it into an environment variable (speakers name theirs "
                    "in `api_key_variable`)"
                )
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [rung.name for rung in self.ladder]
        if len(set(names)) != len(names):
            raise ValueError(f"rung names must differ; found {names}")
        taken = {*names, "weak", "strong"}
        for speaker in self.speakers:
            if speaker.name in taken:
                raise ValueError(
                    f"speaker {speaker.name!r}: the name is taken by a rung, a role or another "
                    "speaker; choose another"
                )
            taken.add(speaker.name)
        blocks = [block.name for block in self.blocks]
        if len(set(blocks)) != len(blocks):
            raise ValueError(f"block names must differ; found {blocks}")
        for index in range(len(self.tasks)):
            self.debate_prompts_of(index)
        for block in self.blocks:
            self.recipes_of(block)
            self.tasks_of(block)
            if len(names) < 2 and block.pairs in ("all", "adjacent", "largest"):
                raise ValueError(
                    f"block {block.name!r} pairs a weak with a strong model, but the ladder has "
                    f"one rung ({names[0]}); "
                    'add a rung, or use pairs = "equal"'
                )
            for pair in self.pairs_of(block):
                for name in pair:
                    if name not in names:
                        raise ValueError(
                            f"block {block.name!r}: no rung {name!r}; rungs: {', '.join(names)}"
                        )
        return self

    def recipes_of(self, block: Block) -> Recipes:
        """The recipes of a block: the sweep's, with what the block changes."""
        where = f"block {block.name!r}"
        student = changed(self.student, f"{where}, student", block.train, block.student)
        if self.ceiling is None and not block.ceiling:
            ceiling = student
        else:
            ceiling = changed(
                self.ceiling or self.student, f"{where}, ceiling", block.train, block.ceiling
            )
        return Recipes(
            changed(self.supervisor, f"{where}, supervisor", block.train, block.supervisor),
            student,
            ceiling,
        )

    def debate_prompts_of(self, task_index: int) -> DebatePrompts:
        """What debaters about a task read: the task's own templates, with what the sweep changes.

        Raises:
            ValueError: there is no such task or field, or a template is not whole.
        """
        own = {name: t for name, t in self.debate_prompts.items() if isinstance(t, dict)}
        labels = self.task_labels
        for name in own:
            if name not in labels:
                raise ValueError(f"debate_prompts: no task {name!r}; tasks: {', '.join(labels)}")
        shared = {name: t for name, t in self.debate_prompts.items() if name not in own}
        table = self.tasks[task_index].debate_prompts().model_dump()
        table |= {**shared, **own.get(labels[task_index], {})}
        try:
            return DebatePrompts.model_validate(table)
        except ValidationError as error:
            where = "debate_prompts: "
            raise ValueError("; ".join(describe(error, DebatePrompts, where))) from error

    @property
    def task_labels(self) -> list[str]:
        """Name of each task, numbered where several have the same."""
        labels = [task.title for task in self.tasks]
        return [
            label if labels.count(label) == 1 else f"{label}-{labels[:index].count(label)}"
            for index, label in enumerate(labels)
        ]

    def tasks_of(self, block: Block) -> list[int]:
        """Positions of the tasks of a block."""
        labels = self.task_labels
        for name in block.tasks:
            if name not in labels:
                raise ValueError(
                    f"block {block.name!r}: no task {name!r}; tasks: {', '.join(labels)}"
                )
        return [i for i, label in enumerate(labels) if not block.tasks or label in block.tasks]

    def pairs_of(self, block: Block) -> list[tuple[str, str]]:
        """The (weak, strong) rung names of a block."""
        names = [rung.name for rung in self.ladder]
        if block.pairs == "all":
            return [(weak, strong) for i, weak in enumerate(names) for strong in names[i + 1 :]]
        if block.pairs == "adjacent":
            return list(pairwise(names))
        if block.pairs == "largest":
            return [(names[0], names[-1])]
        if block.pairs == "equal":
            return [(name, name) for name in names]
        return list(block.pairs)
