"""A method that stands around another one, so that methods compose."""

from pydantic import Field

from w2s.methods.base import Method
from w2s.spec import OneOf, parse
from w2s.stages.base import Stage
from w2s.stages.setup import Setup
from w2s.types import Split


class Around(Method):
    """Does what `of` does, but for what the subclass overrides."""

    of: OneOf[Method] = Field(default_factory=lambda: parse(Method, "naive"))
    """The method whose labels, or whose student's recipe, is changed; the plain one by default."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Those of the method within."""
        return self.of.truth_in_labels

    @property
    def truth_in_contexts(self) -> frozenset[Split]:
        """Those of the method within."""
        return self.of.truth_in_contexts

    def members(self, setup: Setup) -> tuple[Stage, ...]:
        """Those of the method within."""
        return self.of.members(setup)

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """Those of the method within."""
        return self.of.contexts(setup)

    def unaided(self, setup: Setup) -> Stage:
        """That of the method within."""
        return self.of.unaided(setup)

    def supervision(self, setup: Setup) -> Stage:
        """That of the method within."""
        return self.of.supervision(setup)

    def labels(self, setup: Setup) -> Stage:
        """Those of the method within."""
        return self.of.labels(setup)

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """As in the method within."""
        return self.of.learn(setup, labels)

    def floor(self, setup: Setup) -> Stage:
        """That of the method within."""
        return self.of.floor(setup)

    def ceiling(self, setup: Setup) -> Stage:
        """That of the method within."""
        return self.of.ceiling(setup)
