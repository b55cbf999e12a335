"""What a method is: who supervises, and what the student does with the labels.

A method composes stages through `Setup` and runs nothing. Its fields are its hyperparameters; two
methods that need the same stage build equal values, so the plan holds it once.
"""

from w2s.spec import Spec
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class Method(Spec):
    """Supervision and the student's recipe."""

    kind: str
    """Name of the method: the name of its file."""

    @property
    def label(self) -> str:
        """Short name for tables: the kind and every field that is not at its default."""
        changed = [
            str(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if name != "kind" and getattr(self, name) != field.default
        ]
        return f"{self.kind}({', '.join(changed)})" if changed else self.kind

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """Supervisors whose predictions are combined, for an ensemble; none for the others."""
        return ()

    def supervision(self, setup: Setup) -> Stage:
        """The stage whose predictions on `strong_train` are the weak labels."""
        raise NotImplementedError

    def labels(self, setup: Setup) -> Stage:
        """What the student learns from; the supervision unless a method changes it."""
        return self.supervision(setup)

    def student(self, setup: Setup) -> Stage:
        """The stage whose predictions are scored as the student's."""
        return setup.student(self.labels(setup))

    def floor(self, setup: Setup) -> Stage:
        """The weak model on its own."""
        return setup.supervisor()

    def ceiling(self, setup: Setup) -> Stage:
        """The strong model on ground truth.

        What a method does to the student's base model before supervision, it does here too.
        """
        return setup.ceiling()

    def arms(self, setup: Setup) -> dict[str, Stage]:
        """More predictions to score, by name: the steps of a chain, the arms of an analysis."""
        return {}
