"""`Setup`: the verbs a method composes its graph from.

A setup is one experiment at one seed: the task, the ladder with the pair on it, the loss, the
recipes. Its functions only build stages. Methods see nothing else, so a method never has to know
how a stage is spelt. What a recipe's `mode` means (a finetuning, a probe on features, or one after
the other) is decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from serving.debate.prompts import DebatePrompts
from serving.debate.protocols.base import DebateProtocol
from serving.debate.run import check_fits
from serving.errors import ServingInputError
from w2s.errors import UserError
from w2s.losses.base import Loss
from w2s.losses.xent import Xent
from w2s.models.remote import require_local
from w2s.models.source import PretrainedModel, require_decoder
from w2s.stages.base import Stage
from w2s.stages.critique import Critique
from w2s.stages.crossfit import CrossFitted, FoldTruth
from w2s.stages.data import GroundTruth, Prompts
from w2s.stages.debate import Debate
from w2s.stages.demos import Demonstrations
from w2s.stages.evaluate import Evaluate
from w2s.stages.features import Features
from w2s.stages.finetune import PREDICTED, Finetune
from w2s.stages.judge import Judged
from w2s.stages.knowledge import Knowledge, KnowledgeDemos, Questions
from w2s.stages.models import Model
from w2s.stages.probe import Probe
from w2s.stages.prompt import Prompted
from w2s.stages.tokens import Tokens
from w2s.stages.transcripts import ShuffledTranscripts
from w2s.stages.writing import shown_as
from w2s.tasks.base import Task, shape_of
from w2s.templates import CritiquePrompts, JudgePrompts, KnowledgePrompts
from w2s.training.config import TrainConfig
from w2s.types import Split, TrainSplit


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

    @property
    def weak_truth(self) -> Stage:
        """Ground truth of `weak_train`, with the weights by which supervisors learn it."""
        return self.supervisor_labels or self.truth("weak_train")

    def at_seed(self, seed: int) -> "Setup":
        """The same experiment at another seed."""
        return replace(self, seed=seed)

    @property
    def between(self) -> tuple[Model, ...]:
        """The models of the ladder between weak and strong, smallest first."""
        rungs = list(self.ladder.values())
        weak, strong = rungs.index(self.weak), rungs.index(self.strong)
        return tuple(rungs[weak + 1 : strong])

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

    def tokens(self, model: Model, recipe: TrainConfig, transcripts: Stage | None = None) -> Tokens:
        """The rows in a model's tokens, with debates where given.

        Raises:
            UserError: the model is behind a URL.
        """
        require_local(model, "training")
        return Tokens(
            model=model,
            prompts=self.prompts,
            transcripts=transcripts,
            max_length=recipe.max_length,
        )

    def features(
        self, source: Model | Finetune, recipe: TrainConfig, transcripts: Stage | None = None
    ) -> Features:
        """What a frozen model makes of every row."""
        model = source.model if isinstance(source, Finetune) else source
        return Features(
            source=source,
            tokens=self.tokens(model, recipe, transcripts),
            layer=recipe.probe.layer,
        )

    def classifier(
        self,
        model: Model,
        labels: Stage,
        split: TrainSplit,
        *,
        recipe: TrainConfig,
        loss: Loss,
        val_labels: Stage | None = None,
        transcripts: Stage | None = None,
        start: Stage | None = None,
        save_weights: bool = False,
        predicts: tuple[Split, ...] = PREDICTED,
    ) -> Finetune | Probe:
        """A classifier trained as the recipe's mode says.

        Args:
            model: base model.
            labels: ground truth of `split`, or predictions that cover it.
            split: rows to learn from: of one split or both.
            recipe: mode, optimizer, schedule.
            loss: training objective.
            val_labels: labels of `val` that checkpoints are compared on; None: of `labels`, where
                the recipe takes checkpoints.
            transcripts: debates in its input.
            start: classifier whose weights it starts from.
            save_weights: whether its weights are kept.
            predicts: splits whose rows it predicts, besides `val` and `test`.
        """
        probe = recipe.probe if recipe.mode in ("probe", "probe_then_finetune") else None
        if probe is not None and start is None:
            start = Probe(
                features=self.features(model, recipe, transcripts),
                labels=labels,
                train_split=split,
                val_labels=(val_labels or labels) if probe.num_checkpoints else None,
                loss=loss,
                train=probe,
                seed=self.seed,
                predicts=predicts if recipe.mode == "probe" else PREDICTED,
            )
            if recipe.mode == "probe":
                return start
        return Finetune(
            model=model,
            tokens=self.tokens(model, recipe, transcripts),
            labels=labels,
            train_split=split,
            val_labels=(val_labels or labels) if recipe.num_checkpoints else None,
            start=start,
            loss=loss,
            train=recipe,
            seed=self.seed,
            save_weights=save_weights,
            predicts=predicts,
        )

    def supervisor(
        self,
        transcripts: Stage | None = None,
        *,
        model: Model | None = None,
        labels: Stage | None = None,
        save_weights: bool = False,
        predicts: tuple[Split, ...] = PREDICTED,
    ) -> Finetune | Probe:
        """The weak model trained on truth of `weak_train`; transcripts go into its input.

        Args:
            transcripts: debates in its input.
            model: another base model than the weak one.
            labels: labels of `weak_train` with other weights or targets than the plain truth.
            save_weights: whether its weights are kept.
            predicts: splits whose rows it predicts, besides `val` and `test`.
        """
        return self.classifier(
            model or self.weak,
            labels or self.weak_truth,
            "weak_train",
            recipe=self.supervisor_train,
            loss=Xent(),
            val_labels=self.truth("val"),
            transcripts=transcripts,
            save_weights=save_weights,
            predicts=(*predicts, *self.supervisor_predicts),
        )

    def student(
        self,
        labels: Stage,
        *,
        model: Model | None = None,
        loss: Loss | None = None,
        recipe: TrainConfig | None = None,
        val_labels: Stage | None = None,
        start: Stage | None = None,
        save_weights: bool = False,
    ) -> Finetune | Probe:
        """The strong model trained on predicted labels of `strong_train`; it reads no debates.

        Args:
            labels: what it learns.
            model: another base model than the strong one, such as a rung in between.
            loss: another loss than the experiment's.
            recipe: another recipe than the experiment's.
            val_labels: weak labels of `val` for its checkpoints; None: those of `labels`.
            start: classifier it starts from.
            save_weights: whether its weights are kept.
        """
        return self.classifier(
            model or self.strong,
            labels,
            "strong_train",
            recipe=recipe or self.student_train,
            loss=loss or self.loss,
            val_labels=val_labels,
            start=start,
            save_weights=save_weights,
        )

    def ceiling(
        self, *, model: Model | None = None, save_weights: bool = False
    ) -> Finetune | Probe:
        """The strong model trained on ground truth of the student's rows, with cross-entropy."""
        return self.classifier(
            model or self.strong,
            self.truth("strong_train"),
            "strong_train",
            recipe=self.ceiling_train,
            loss=Xent(),
            val_labels=self.truth("val"),
            save_weights=save_weights,
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

    def cross_fitted(self, num_folds: int) -> CrossFitted:
        """The unaided supervisor's predictions of all splits.

        A row of `weak_train` is predicted by a model that learnt the other folds, so that nothing
        made of it tells the row's label.
        """
        naive = replace(self, supervisor_labels=None, supervisor_predicts=PREDICTED)
        folds = tuple(
            FoldTruth(
                truth=self.truth("weak_train"),
                prompts=self.prompts,
                fold=fold,
                num_folds=num_folds,
                seed=self.seed,
            )
            for fold in range(num_folds)
        )
        return CrossFitted(
            whole=naive.supervisor(),
            folds=folds,
            members=tuple(naive.supervisor(labels=one, predicts=("weak_train",)) for one in folds),
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
