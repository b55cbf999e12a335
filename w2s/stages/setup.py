"""`Setup`: the verbs a method composes its graph from.

A setup is one experiment at one seed: the task, the two base models, the loss, the recipes. Its
    functions only build stages. Methods see nothing else, so a method never has to know how a stage
    is spelt.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from serving.debate.protocols.base import DebateProtocol
from w2s.losses.base import Loss
from w2s.losses.xent import Xent
from w2s.stages.base import Stage
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.debate import Debate
from w2s.stages.evaluate import Evaluate
from w2s.stages.finetune import Finetune
from w2s.stages.pretrain import Model
from w2s.tasks.base import Task
from w2s.training.config import TrainConfig
from w2s.types import Split


@dataclass(frozen=True)
class Setup:
    """One point of an experiment at one seed."""

    task: Task
    """The task."""
    data: str
    """Fingerprint of the task's data."""
    weak: Model
    """Base model of supervisors."""
    strong: Model
    """Base model of students, ceilings and, unless a method says otherwise, debaters."""
    loss: Loss
    """Loss of the student."""
    supervisor_train: TrainConfig
    """Recipe of supervisors."""
    student_train: TrainConfig
    """Recipe of students."""
    ceiling_train: TrainConfig
    """Recipe of ceilings: fixed, whatever a search does to the student's."""
    protocol: DebateProtocol
    """How debates go."""
    seed: int
    """Replicate."""

    @cached_property
    def prompts(self) -> Prompts:
        """Prompts of all splits."""
        return Prompts(task=self.task, data=self.data)

    def truth(self, split: Split) -> GroundTruth:
        """Ground truth of one split."""
        return GroundTruth(task=self.task, split=split, data=self.data)

    def at_seed(self, seed: int) -> "Setup":
        """The same experiment at another seed."""
        return replace(self, seed=seed)

    def debate(self, debater: Model) -> Debate:
        """Debates by two instances of `debater` about every row, at this seed."""
        return Debate(
            debater=debater,
            prompts=self.prompts,
            templates=self.task.debate_prompts(),
            protocol=self.protocol,
            seed=self.seed,
        )

    def supervisor(self, transcripts: Stage | None = None) -> Finetune:
        """The weak model finetuned on truth of `weak_train`; transcripts go into its input."""
        return Finetune(
            model=self.weak,
            prompts=self.prompts,
            labels=self.truth("weak_train"),
            train_split="weak_train",
            transcripts=transcripts,
            loss=Xent(),
            train=self.supervisor_train,
            seed=self.seed,
        )

    def student(self, labels: Stage) -> Finetune:
        """The strong model finetuned on predicted labels of `strong_train`; it reads no debates."""
        return Finetune(
            model=self.strong,
            prompts=self.prompts,
            labels=labels,
            train_split="strong_train",
            loss=self.loss,
            train=self.student_train,
            seed=self.seed,
        )

    def ceiling(self) -> Finetune:
        """The strong model finetuned on ground truth of the student's rows, with cross-entropy."""
        return Finetune(
            model=self.strong,
            prompts=self.prompts,
            labels=self.truth("strong_train"),
            train_split="strong_train",
            loss=Xent(),
            train=self.ceiling_train,
            seed=self.seed,
        )

    def evaluate(self, predictions: Stage, supervisor: Stage | None = None) -> Evaluate:
        """Scores on `val` and `test`, and agreement with a supervisor."""
        return Evaluate(
            predictions=predictions,
            truths=(self.truth("val"), self.truth("test")),
            prompts=self.prompts,
            supervisor=supervisor,
        )

    def evaluate_supervisor(self, predictions: Stage) -> Evaluate:
        """Scores of a labeller: `val`, `test`, and how right its labels of `strong_train` are."""
        return Evaluate(
            predictions=predictions,
            truths=(self.truth("val"), self.truth("test"), self.truth("strong_train")),
            prompts=self.prompts,
        )
