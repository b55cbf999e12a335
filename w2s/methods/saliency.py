"""Does weak supervision make a concept salient? Five arms (Burns et al. 2023, section 5.2.3).

Linear probes on the last activations of the strong model, before and after it learnt weak labels:
`lp(weak)`, `lp(gt)`, `ft(weak)` (the student), `ft(weak)+lp(gt)` and `ft(gt)` (the ceiling).
"""

from typing import Literal

from w2s.errors import UserError
from w2s.losses.xent import Xent
from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.features import Features
from w2s.stages.finetune import Finetune
from w2s.stages.models import Model
from w2s.stages.probe import Probe
from w2s.stages.setup import Setup
from w2s.training.config import ProbeConfig


class Saliency(Around):
    """The student of the method within, and four arms beside it; probes learn cross-entropy."""

    kind: Literal["saliency"] = "saliency"
    probe: ProbeConfig = ProbeConfig()
    """Recipe of the probes."""

    def learn(self, setup: Setup, labels: Stage) -> Finetune:
        """The student of the method within, whose weights are kept.

        Raises:
            UserError: it is not finetuned.
        """
        student = self.of.learn(setup, labels)
        if not isinstance(student, Finetune):
            raise UserError(
                f"saliency probes a finetuned student; found a {student.kind}; "
                "set student.mode to full, lora or probe_then_finetune"
            )
        return student.model_copy(update={"save_weights": True})

    def arms(self, setup: Setup) -> dict[str, Stage]:
        """All five; those with `gt` learn ground truth of `strong_train`."""
        labels, truth = self.labels(setup), setup.truth("strong_train")
        student = self.learn(setup, labels)
        before = self._features(setup, student.model)
        after = self._features(setup, student)
        return {
            "lp(weak)": self._probe(setup, before, labels, labels),
            "lp(gt)": self._probe(setup, before, truth, setup.truth("val")),
            "ft(weak)": student,
            "ft(weak)+lp(gt)": self._probe(setup, after, truth, setup.truth("val")),
            "ft(gt)": self.ceiling(setup),
        }

    def _features(self, setup: Setup, source: Model | Finetune) -> Features:
        features = setup.features(source, setup.student_train)
        return features.model_copy(update={"layer": self.probe.layer})

    def _probe(self, setup: Setup, features: Features, labels: Stage, val_labels: Stage) -> Probe:
        return Probe(
            features=features,
            labels=labels,
            train_split="strong_train",
            val_labels=val_labels if self.probe.num_checkpoints else None,
            loss=Xent(),
            train=self.probe,
            seed=setup.seed,
        )
