"""What a method is: who supervises, and what the student does with the labels.

A method composes stages through `Setup` and runs nothing. Its fields are its hyperparameters; two
methods that need the same stage build equal values, so the plan holds it once.

Labels go from `supervision` through `labels` to `learn`: a method that changes labels replaces the
second, one that changes the student's recipe the third, and both can stand around another method.
"""

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serving.debate.protocols.base import DebateProtocol
from w2s.combiners.base import Combiner
from w2s.spec import Spec
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.types import Split
from w2s.weightings.base import Weighting


class Method(Spec):
    """Supervision and the student's recipe."""

    kind: str
    """Name of the method: the name of its file."""

    @property
    def label(self) -> str:
        """Short name for tables: the kind and every field that is not at its default.

        Words stand alone, all else has its name: `debate(weak)`, `debate_ensemble(num_members=8)`.
        """
        changed = _changed(self)
        return f"{self.kind}({', '.join(changed)})" if changed else self.kind

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Splits whose ground truth the student's labels depend on.

        `strong_train` is among them only where a method is about that: its student is then not
        supervised by the weak model alone.
        """
        return frozenset({"weak_train"})

    @property
    def truth_in_contexts(self) -> frozenset[Split]:
        """Splits whose ground truth the `contexts` depend on: none, where models just argue."""
        return frozenset()

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """Supervisors whose predictions are combined, for an ensemble; none for the others."""
        return ()

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """What its supervisors read about each row, such as debates: one stage a supervisor.

        Empty for the methods whose supervisors read the rows alone.
        """
        return ()

    def unaided(self, setup: Setup) -> Stage:
        """What a supervisor says that does not read its transcripts: the floor.

        A method whose supervisors are asked in another way than the floor gives the same way here.
        """
        return self.floor(setup)

    def supervision(self, setup: Setup) -> Stage:
        """The stage whose predictions on `strong_train` are the weak labels."""
        raise NotImplementedError

    def labels(self, setup: Setup) -> Stage:
        """What the student learns from; the supervision unless a method changes it."""
        return self.supervision(setup)

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """What the student does with labels of `strong_train`.

        One finetuning with the experiment's loss and recipe, unless a method changes it.
        """
        return setup.student(labels)

    def student(self, setup: Setup) -> Stage:
        """The stage whose predictions are scored as the student's."""
        return self.learn(setup, self.labels(setup))

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


def _changed(spec: BaseModel, prefix: str = "") -> list[str]:
    """The fields that are not at their defaults, as they stand in a label.

    Words stand alone; of several fields for any text, such as names of models, the first one does.
    """
    shown = []
    texts = [name for name, field in type(spec).model_fields.items() if _takes_text(field)]
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name == "kind" or value == field.get_default(call_default_factory=True):
            continue
        if isinstance(value, Method):
            shown.append(value.label)
        elif isinstance(value, str):
            shown.append(f"{name}={value}" if name in texts[1:] else value)
        elif isinstance(value, Combiner | Weighting):
            inner = ", ".join(_changed(value))
            shown.append(f"{prefix}{name}={value.kind}" + (f"({inner})" if inner else ""))
        elif isinstance(value, DebateProtocol) and not isinstance(field.default, type(value)):
            inner = ", ".join(_changed(value))
            shown.append(f"{value.kind}({inner})" if inner else value.kind)
        elif isinstance(value, BaseModel):
            shown += _changed(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], Method):
            shown.append(" + ".join(method.label for method in value))
        elif isinstance(value, tuple):
            shown.append(f"{prefix}{name}={'+'.join(map(str, value))}")
        else:
            shown.append(f"{prefix}{name}={value}")
    return shown


def _takes_text(field: FieldInfo) -> bool:
    """Whether any text can stand in a field."""
    return field.annotation is str or field.annotation == (str | None)
