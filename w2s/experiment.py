"""`Experiment`: one point of a sweep as a pure function to stages.

An experiment names the task, the pair, the method, the loss and the recipes. At each seed it gives
four evaluations to run: the floor (weak model alone), the supervisor (weak model as the method
assists it), the student and the ceiling; and, where supervisors read debates, what these did.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import Field, SerializeAsAny

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from w2s.losses.base import Loss
from w2s.methods.base import Method
from w2s.spec import Spec
from w2s.stages.base import Stage, closure
from w2s.stages.evaluate import Evaluate
from w2s.stages.models import Model
from w2s.stages.oversight import Oversight
from w2s.stages.setup import Setup
from w2s.tasks.base import Task
from w2s.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Roles:
    """The evaluations of an experiment at one seed."""

    floor: Evaluate
    """Weak model finetuned on ground truth, unaided."""
    supervisor: Evaluate
    """Weak model as the method assists it; the floor itself for a method that does not."""
    student: Evaluate
    """Strong model finetuned on the supervisor's labels."""
    ceiling: Evaluate
    """Strong model finetuned on ground truth of the student's rows."""
    members: tuple[Evaluate, ...] = ()
    """Supervisors that an ensemble combines, each scored alone."""
    arms: dict[str, Evaluate] = field(default_factory=dict)
    """What else the method has scored, by name."""
    oversight: tuple[Oversight, ...] = ()
    """What transcripts did to the supervisors that read them; of two classes only."""

    @property
    def evaluations(self) -> tuple[Evaluate, ...]:
        """All evaluations: floor, ceiling, supervisor, members, arms, student."""
        first = (self.floor, self.ceiling, self.supervisor, *self.members)
        return (*first, *self.arms.values(), self.student)

    def __iter__(self) -> Iterator[Stage]:
        """All there is to run: evaluations and oversight."""
        yield from (*self.evaluations, *self.oversight)


class Experiment(Spec):
    """Everything that one trial computes, at any seed."""

    task: SerializeAsAny[Task]
    """The task."""
    data: str
    """Fingerprint of the task's data."""
    weak: Model
    """Base model of the supervisor."""
    strong: Model
    """Base model of student and ceiling."""
    ladder: dict[str, Model]
    """All models of the sweep by the name of their rung, smallest first; both are among them."""
    speakers: dict[str, Model] = Field(default_factory=dict)
    """Models of the sweep that only argue, judge or label in context, by name."""
    method: SerializeAsAny[Method]
    """How the student is supervised."""
    loss: SerializeAsAny[Loss]
    """Loss of the student."""
    supervisor_train: TrainConfig
    """Recipe of supervisors."""
    student_train: TrainConfig
    """Recipe of the student."""
    ceiling_train: TrainConfig
    """Recipe of the ceiling."""
    protocol: SerializeAsAny[DebateProtocol]
    """How debates go."""
    debate_prompts: DebatePrompts | None = None
    """What debaters read; None: the task's own templates."""

    def setup(self, seed: int) -> Setup:
        """The experiment at one seed, as methods see it."""
        return Setup(
            task=self.task,
            data=self.data,
            weak=self.weak,
            strong=self.strong,
            ladder=self.ladder,
            speakers=self.speakers,
            loss=self.loss,
            supervisor_train=self.supervisor_train,
            student_train=self.student_train,
            ceiling_train=self.ceiling_train,
            protocol=self.protocol,
            templates=self.debate_prompts,
            seed=seed,
        )

    def roles(self, seed: int) -> Roles:
        """What to evaluate at one seed; the graph of stages hangs from it."""
        setup = self.setup(seed)
        supervision = self.method.supervision(setup)
        return Roles(
            floor=setup.evaluate_supervisor(self.method.floor(setup)),
            supervisor=setup.evaluate_supervisor(supervision),
            student=setup.evaluate(self.method.student(setup), supervisor=supervision),
            ceiling=setup.evaluate(self.method.ceiling(setup)),
            arms={
                name: setup.evaluate(stage, supervisor=supervision)
                for name, stage in self.method.arms(setup).items()
            },
            members=tuple(
                setup.evaluate_supervisor(member) for member in self.method.members(setup)
            ),
            oversight=self._oversight(setup, supervision),
        )

    def _oversight(self, setup: Setup, supervision: Stage) -> tuple[Oversight, ...]:
        transcripts = self.method.contexts(setup)
        if not transcripts or self.task.num_classes != 2:
            return ()
        supervisors = self.method.members(setup) or (supervision,)
        below = {each.key: (each, closure([each])) for each in supervisors}
        unaided = self.method.unaided(setup)
        return tuple(
            Oversight(
                transcripts=read,
                judged=supervisor,
                unaided=unaided,
                truths=(setup.truth("val"), setup.truth("test")),
                prompts=setup.prompts,
            )
            for key, read in {each.key: each for each in transcripts}.items()
            for supervisor, inputs in below.values()
            if key in inputs
        )
