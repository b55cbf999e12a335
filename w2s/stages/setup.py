"""`Setup`: the verbs a method composes its graph from.

A setup is one experiment at one seed: the task, the ladder with the pair on it, the loss, the
recipes. Its functions only build stages. Methods see nothing else, so a method never has to know
how a stage is spelt. What a recipe's `mode` means (a finetuning, a probe on features, or one after
the other) is decided here; what models say is built by `TalkingSetup`.
"""

from dataclasses import dataclass, replace

from w2s.losses.base import Loss
from w2s.losses.xent import Xent
from w2s.models.remote import require_local
from w2s.stages.base import Stage
from w2s.stages.crossfit import CrossFitted, FoldTruth
from w2s.stages.evaluate import Evaluate
from w2s.stages.features import Features
from w2s.stages.finetune import PREDICTED, Finetune
from w2s.stages.models import Model
from w2s.stages.probe import Probe
from w2s.stages.talking import TalkingSetup
from w2s.stages.tokens import Tokens
from w2s.training.config import TrainConfig
from w2s.types import Split, TrainSplit


@dataclass(frozen=True)
class Setup(TalkingSetup):
    """One point of an experiment at one seed, with all that can be trained in it."""

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
