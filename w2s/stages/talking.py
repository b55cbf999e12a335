"""`TalkingSetup`: an experiment at one seed, and what its models say: debates, verdicts, critiques.

The half of `Setup` in which a model argues, judges, writes, or labels in context. Its functions
only build stages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.run import check_fits
from serving.errors import ServingInputError
from w2s.errors import UserError
from w2s.losses.base import Loss
from w2s.models.source import PretrainedModel, require_decoder
from w2s.stages.base import Stage
from w2s.stages.critique import Critique
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.debate import Debate
from w2s.stages.demos import Demonstrations
from w2s.stages.finetune import PREDICTED
from w2s.stages.judge import Judged
from w2s.stages.knowledge import Knowledge, KnowledgeDemos, Questions
from w2s.stages.models import Model
from w2s.stages.prompt import Prompted
from w2s.stages.transcripts import ShuffledTranscripts
from w2s.stages.writing import shown_as
from w2s.tasks.base import Task, shape_of
from w2s.templates import CritiquePrompts, JudgePrompts, KnowledgePrompts
from w2s.training.config import TrainConfig
from w2s.types import Split


@dataclass(frozen=True)
class TalkingSetup:
    """One point of an experiment at one seed."""

    task: Task
    """The task."""
    data: str
    """Fingerprint of the task's data."""
    weak: Model
    """Base model of supervisors."""
    strong: Model
    """Base model of students, ceilings and, unless a method says otherwise, debaters."""
    ladder: Mapping[str, Model]
    """All models of the sweep by the name of their rung, smallest first."""
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
    speakers: Mapping[str, Model] = field(default_factory=dict)
    """Models of the sweep that only argue, judge or label in context, by name."""
    templates: DebatePrompts | None = None
    """What debaters read; None: the task's own templates."""
    supervisor_labels: Stage | None = None
    """Truth of `weak_train` with the weights by which supervisors learn it; None: the plain one."""
    supervisor_predicts: tuple[Split, ...] = PREDICTED
    """Splits whose rows every supervisor predicts, besides those it is asked for."""

    def named(self, name: str) -> Model:
        """The model that a method's field names.

        Args:
            name: `weak`, `strong`, a rung of the ladder, or a speaker of the sweep.

        Raises:
            UserError: there is no such model.
        """
        models = {**self.ladder, **self.speakers, "weak": self.weak, "strong": self.strong}
        if name not in models:
            raise UserError(
                f"no model {name!r}; models: weak, strong, "
                f"{', '.join([*self.ladder, *self.speakers])}"
            )
        return models[name]

    @property
    def debate_prompts(self) -> DebatePrompts:
        """What debaters read, and how turns are shown."""
        return self.templates or self.task.debate_prompts()

    @cached_property
    def prompts(self) -> Prompts:
        """Prompts of all splits."""
        return Prompts(task=self.task, data=self.data)

    def truth(self, split: Split) -> GroundTruth:
        """Ground truth of one split."""
        return GroundTruth(task=self.task, split=split, data=self.data)

    def debate(
        self,
        debater: Model,
        *,
        opponent: Model | None = None,
        judge: Model | None = None,
        protocol: DebateProtocol | None = None,
        against: Stage | None = None,
    ) -> Debate:
        """Debates about every row, at this seed.

        Args:
            debater: who argues.
            opponent: who speaks for the other side; None: the same model.
            judge: who asks questions or chooses among candidates, where the protocol has that;
                None: the weak model.
            protocol: how debates go; None: the sweep's.
            against: predictions of all rows, for protocols that argue against what a model picked.

        Raises:
            UserError: a model is an encoder, or the protocol does not fit task or method.
        """
        protocol = protocol or self.protocol
        self._check_protocol(protocol, against)
        if not protocol.needs_judge:
            judge = None
        elif judge is None:
            judge = self.weak
        speakers = {"debater": debater, "opponent": opponent, "judge": judge}
        for role, model in speakers.items():
            if model is not None:
                _require_decoder(model, f"the {role} of a debate")
        return Debate(
            debater=debater,
            opponent=None if opponent == debater or len(protocol.sides) == 1 else opponent,
            judge=judge,
            against=against if protocol.argues_against else None,
            prompts=self.prompts,
            templates=self.debate_prompts,
            protocol=protocol,
            seed=self.seed,
        )

    def _check_protocol(self, protocol: DebateProtocol, against: Stage | None) -> None:
        """Refuse what a protocol needs and the task or the method does not have."""
        if self.task.num_classes != 2:
            raise UserError(
                f"task {self.task.kind!r} has {self.task.num_classes} classes; a debate is about "
                "whether a proposed answer is correct: take a task with two"
            )
        if protocol.argues_against and against is None:
            raise UserError(
                f"protocol {protocol.kind!r} argues against what a model picked, and this method "
                f"has no picks; use the method {protocol.kind!r}, or another protocol"
            )
        try:
            check_fits(protocol, self.debate_prompts)
        except ServingInputError as error:
            raise UserError(f"task {self.task.kind!r}: {error}") from error
        for option in ("hide_passage", "verify_quotes"):
            if getattr(protocol, option) and not shape_of(self.task).has_passages:
                raise UserError(
                    f"protocol {protocol.kind!r} has {option} = true, but the questions of task "
                    f"{self.task.kind!r} are not about a passage; leave {option} out"
                )

    def zero_shot(self, model: Model) -> Prompted:
        """A base model's own labels of `strong_train`, `val` and `test`, asked for in context."""
        return self.few_shot(model, None)

    def few_shot(self, model: Model, demos: Demonstrations | None) -> Prompted:
        """A base model's labels in context with demonstrations from `strong_train`.

        Raises:
            UserError: the model is an encoder.
        """
        _require_decoder(model, "a prompt")
        return Prompted(
            model=model, prompts=self.prompts, template=self.task.prompt_template(), demos=demos
        )

    def judged(
        self,
        judge: Model,
        transcripts: Stage | None = None,
        *,
        prompts: JudgePrompts | None = None,
        how: Literal["scores", "verdict"] = "scores",
        swap: bool = False,
        rounds: Literal["all", "last"] = "all",
        hide_passage: bool = False,
    ) -> Judged:
        """A base model's labels of `strong_train`, `val` and `test` after reading transcripts.

        Args:
            judge: who judges, zero-shot.
            transcripts: what it reads about each row; None: nothing.
            prompts: what it reads around them; None: as the task says.
            how: by scores of label words, or by a written verdict.
            swap: whether it reads every transcript in both orders.
            rounds: which rounds it reads.
            hide_passage: whether it reads questions without their passage.

        Raises:
            UserError: the model is an encoder, the templates have not one label a class, or there
                are no words for a written verdict.
        """
        _require_decoder(judge, "a judge")
        templates = prompts or self.task.judge_prompts()
        if len(templates.labels) != self.task.num_classes:
            raise UserError(
                f"the judge's templates for task {self.task.kind!r} have {len(templates.labels)} "
                f"labels for {self.task.num_classes} classes; give one a class"
            )
        if how == "verdict" and not templates.verdict_closing:
            raise UserError(
                f"the models of task {self.task.kind!r} have no words for a written verdict; "
                'judge by how = "scores", or give templates with a `verdict_closing`'
            )
        return Judged(
            model=judge,
            prompts=self.prompts,
            transcripts=transcripts,
            templates=templates,
            turn_templates=_turn_templates(transcripts),
            how=how,
            swap=swap,
            rounds=rounds,
            hide_passage=hide_passage,
        )

    def knowledge(
        self,
        writer: Model,
        demonstrator: Model,
        *,
        prompts: KnowledgePrompts | None = None,
        num_questions: int = 8,
        num_demos: int = 2,
    ) -> Knowledge:
        """Background knowledge on every row's question, at this seed.

        Args:
            writer: who writes; it never reads a proposed answer.
            demonstrator: who writes the demonstrations that it is shown.
            prompts: templates; None: the task's.
            num_questions: questions of `strong_train` that are demonstrated.
            num_demos: demonstrations a prompt; 0: none are written.

        Raises:
            UserError: a model is an encoder.
        """
        templates = prompts or self.task.knowledge_prompts()
        questions = Questions(task=self.task, data=self.data)
        _require_decoder(writer, "background knowledge")
        demos = None
        if num_demos and templates.takes_demos:
            _require_decoder(demonstrator, "a demonstration")
            demos = KnowledgeDemos(
                model=demonstrator,
                questions=questions,
                templates=templates,
                number=num_questions,
                seed=self.seed,
            )
        return Knowledge(
            model=writer,
            questions=questions,
            demos=demos,
            num_demos=max(1, num_demos),
            templates=templates,
            seed=self.seed,
        )

    def critique(self, critic: Model, *, prompts: CritiquePrompts | None = None) -> Critique:
        """A critique of every row, at this seed.

        Args:
            critic: who criticises.
            prompts: templates; None: the task's.

        Raises:
            UserError: the model is an encoder.
        """
        _require_decoder(critic, "a critique")
        return Critique(
            model=critic,
            prompts=self.prompts,
            templates=prompts or self.task.critique_prompts(),
            seed=self.seed,
        )


def _require_decoder(model: Model, purpose: str) -> None:
    if isinstance(model, PretrainedModel):
        require_decoder(model, purpose)


def _turn_templates(transcripts: Stage | None) -> DebatePrompts | None:
    """How the turns of an artifact are shown; None where its text is not made of turns."""
    if isinstance(transcripts, ShuffledTranscripts):
        return _turn_templates(transcripts.transcripts)
    if isinstance(transcripts, Debate):
        return transcripts.templates
    if isinstance(transcripts, Knowledge | Critique):
        return shown_as(transcripts.templates)
    return None
