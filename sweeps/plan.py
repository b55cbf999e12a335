"""From a sweep to its stages: cells, points, experiments, and the one graph they share.

A *cell* is one element of a block's grid (task, pair, method, loss); a *point* is a cell with
values for what is searched. `Planner` turns points into experiments, resolving each task and each
model once. `Plan` is the union of their stages, each once, with counts and costs. Nothing here runs
anything, opens the store or knows Ray.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from sweeps.config import Block, Recipes, Rung, SpeakerEntry, Sweep
from sweeps.space import Distribution, Value, has_field, split_path, with_fields
from w2s.corpora.base import Corpus
from w2s.errors import UserError
from w2s.experiment import Experiment, Roles
from w2s.losses.base import Loss
from w2s.methods.base import Method
from w2s.models.remote import RemoteModel
from w2s.models.source import PretrainedModel, require_decoder, resolve
from w2s.spec import digest
from w2s.stages.base import Stage, closure
from w2s.stages.finetune import Finetune
from w2s.stages.models import Model, ModelStage
from w2s.stages.pretrain import Pretrain
from w2s.stages.probe import Probe
from w2s.tasks.base import Task, shape_of

TRAININGS = (Finetune, Probe, ModelStage)
"""Stages that take gradient steps."""


@dataclass(frozen=True)
class Cell:
    """One element of a block's grid."""

    block: str
    """Name of the block."""
    task_index: int
    """Position in the sweep's tasks."""
    weak: str
    """Name of the weak rung."""
    strong: str
    """Name of the strong rung."""
    method: Method
    """How the student is supervised."""
    loss: Loss
    """Loss of the student."""
    recipes: Recipes
    """How supervisor, student and ceiling are trained."""
    space: tuple[tuple[str, Distribution], ...] = ()
    """What is searched here, by path."""
    num_trials: int = 0
    """Trials of the search; 0: the cell is one point."""

    @cached_property
    def id(self) -> str:
        """Digest of the cell without its block: the name of its Optuna study."""
        return digest(
            [self.task_index, self.weak, self.strong, self.method, self.loss, self.recipes]
            + [[path, distribution] for path, distribution in self.space]
        )


@dataclass(frozen=True)
class Point:
    """A cell with values for what is searched."""

    cell: Cell
    """Where in the grid."""
    values: dict[str, Value] = field(default_factory=dict)
    """Searched values by path."""

    @cached_property
    def id(self) -> str:
        """Digest of block, cell and values: the name of the trial."""
        return digest([self.cell.block, self.cell.id, self.values])

    @property
    def method(self) -> Method:
        """The method with the searched values in."""
        return with_fields(self.cell.method, self._values("method"))

    @property
    def loss(self) -> Loss:
        """The loss with the searched values in."""
        return with_fields(self.cell.loss, self._values("loss"))

    def _values(self, prefix: str) -> dict[str, Value]:
        return {
            split_path(path)[1]: value
            for path, value in self.values.items()
            if split_path(path)[0] == prefix
        }


class Planner:
    """A sweep with its tasks and models resolved."""

    def __init__(
        self, sweep: Sweep, source: Callable[[PretrainedModel], PretrainedModel] = resolve
    ) -> None:
        """Resolve data and model fingerprints.

        Args:
            sweep: what is planned.
            source: finds a model from outside and gives it its fingerprint.

        Raises:
            UserError: data or a model cannot be found.
        """
        self.sweep = sweep
        self._resolve = source
        self.data = [task.fingerprint() for task in sweep.tasks]
        self._corpora: dict[Corpus, str] = {}
        self._sources: dict[PretrainedModel, PretrainedModel] = {}
        self.models = [
            {rung.name: self._model(rung, task) for rung in sweep.ladder} for task in sweep.tasks
        ]
        self.speakers = {entry.name: self._speaker(entry) for entry in sweep.speakers}
        self._prompts = [sweep.debate_prompts_of(index) for index in range(len(sweep.tasks))]
        self._roles: dict[str, dict[int, Roles]] = {}

    def check(self) -> None:
        """Read every task and build every cell once: what cannot be is said before anything runs.

        Raises:
            UserError: data are not as they should be, a loss or a head does not fit a task, or a
                method has no place in a ladder.
        """
        for task in self.sweep.tasks:
            shape_of(task)
        for cell in self.cells():
            try:
                task = self.sweep.tasks[cell.task_index]
                options = shape_of(task).has_options
                cell.loss.check_classes(task.num_classes)
                for recipe in cell.recipes:
                    recipe.check_classes(task.num_classes, options=options)
                self._role(Point(cell), self.sweep.seeds[0])
            except UserError as error:
                where = f"block {cell.block!r}, task {self.task_label(cell.task_index)}"
                raise UserError(f"{where}, {cell.weak} > {cell.strong}: {error}") from error

    def _model(self, rung: Rung, task: Task) -> Model:
        if rung.model is not None:
            return self._source(rung, rung.model)
        assert rung.architecture is not None
        assert rung.corpus is not None
        corpus = rung.corpus.bind(task, self.sweep.tasks)
        if corpus not in self._corpora:
            self._corpora[corpus] = corpus.fingerprint()
        return Pretrain(
            architecture=rung.architecture,
            corpus=corpus,
            data=self._corpora[corpus],
            seed=rung.seed,
        )

    def _speaker(self, entry: SpeakerEntry) -> Model:
        if entry.base_url is None:
            source = self._source(entry, entry.model)
            require_decoder(source, f"speaker {entry.name!r}")
            return source
        return RemoteModel(
            name=entry.name,
            model=entry.model,
            revision=entry.revision or "",
            chat=entry.chat,
            system=entry.system,
        )

    def _source(self, entry: Rung | SpeakerEntry, path: str) -> PretrainedModel:
        named = PretrainedModel(
            path=path, revision=entry.revision, trust_remote_code=entry.trust_remote_code
        )
        if named not in self._sources:
            self._sources[named] = self._resolve(named)
        return self._sources[named]

    def cells(self) -> list[Cell]:
        """Every cell of every block, in the order of the file."""
        return list(self._cells)

    @cached_property
    def _cells(self) -> list[Cell]:
        cells: list[Cell] = []
        for block in self.sweep.blocks:
            recipes = self.sweep.recipes_of(block)
            spaces = [
                (method, loss, _space(block, method, loss))
                for method in block.methods
                for loss in block.losses
            ]
            cells.extend(
                Cell(
                    block=block.name,
                    task_index=task_index,
                    weak=weak,
                    strong=strong,
                    method=method,
                    loss=loss,
                    recipes=recipes,
                    space=space,
                    num_trials=block.num_trials if space else 0,
                )
                for task_index in self.sweep.tasks_of(block)
                for weak, strong in self.sweep.pairs_of(block)
                for method, loss, space in spaces
            )
        return cells

    def experiment(self, point: Point) -> Experiment:
        """What a point computes."""
        cell, sweep = point.cell, self.sweep
        return Experiment(
            task=sweep.tasks[cell.task_index],
            data=self.data[cell.task_index],
            weak=self.models[cell.task_index][cell.weak],
            strong=self.models[cell.task_index][cell.strong],
            ladder=self.models[cell.task_index],
            speakers=self.speakers,
            method=point.method,
            loss=point.loss,
            supervisor_train=cell.recipes.supervisor,
            student_train=with_fields(cell.recipes.student, point._values("student")),
            ceiling_train=cell.recipes.ceiling,
            protocol=sweep.protocol,
            debate_prompts=self._prompts[cell.task_index],
        )

    def roles(self, point: Point) -> dict[int, Roles]:
        """The evaluations of a point by seed; each is composed once."""
        return {seed: self._role(point, seed) for seed in self.sweep.seeds}

    def _role(self, point: Point, seed: int) -> Roles:
        known = self._roles.setdefault(point.id, {})
        if seed not in known:
            known[seed] = self.experiment(point).roles(seed)
        return known[seed]

    def task_label(self, task_index: int) -> str:
        """Name of a task in tables."""
        return self.sweep.task_labels[task_index]


def _space(block: Block, method: Method, loss: Loss) -> tuple[tuple[str, Distribution], ...]:
    """The part of a block's space that a cell has fields for."""
    owners = {"method": type(method), "loss": type(loss)}
    return tuple(
        (path, distribution)
        for path, distribution in block.space.items()
        if split_path(path)[0] == "student"
        or has_field(owners[split_path(path)[0]], split_path(path)[1])
    )


class Plan:
    """Stages by key, inputs before those that read them."""

    def __init__(self, roots: Iterable[Stage]) -> None:
        """Collect `roots` and all they need, each stage once."""
        self.roots = list(roots)
        self.stages = closure(self.roots)

    def __len__(self) -> int:
        """Number of stages."""
        return len(self.stages)

    @cached_property
    def counts(self) -> Counter[str]:
        """Stages by kind."""
        return Counter(stage.kind for stage in self.stages.values())

    @cached_property
    def unshared(self) -> Counter[str]:
        """Stages by kind as if every root brought its own: what sharing saves."""
        total: Counter[str] = Counter()
        for key, times in Counter(root.key for root in self.roots).items():
            for kind in _kinds_below(self.stages[key]):
                total[kind] += times
        return total

    @property
    def trainings(self) -> list[Stage]:
        """The stages that take gradient steps."""
        return [stage for stage in self.stages.values() if isinstance(stage, TRAININGS)]

    @property
    def num_unshared(self) -> int:
        """Trainings as if every root brought its own."""
        return sum(self.unshared[kind] for kind in {stage.kind for stage in self.trainings})

    def cost(self) -> float:
        """Estimated seconds on one core of the reference machine, all stages together."""
        return sum(stage.cost() for stage in self.stages.values())


def planned_stages(planner: Planner) -> tuple[Plan, int]:
    """The stages of every cell, searched ones at the file's own values.

    Returns:
        The plan, and the number of points that a search will add.
    """
    roots: list[Stage] = []
    searched = 0
    for cell in planner.cells():
        searched += max(0, cell.num_trials - 1)
        for roles in planner.roles(Point(cell)).values():
            roots.extend(roles)
    return Plan(roots), searched


def _kinds_below(root: Stage) -> Iterator[str]:
    """Kind of a stage and of each that it needs."""
    seen, todo = {root.key}, [root]
    while todo:
        stage = todo.pop()
        yield stage.kind
        for source in stage.inputs:
            if source.key not in seen:
                seen.add(source.key)
                todo.append(source)
