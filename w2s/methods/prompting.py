"""In-context prompting with weak labels in place of finetuning (Burns et al. 2023, section 5.2.1).

With the confidence beside each label, and with similar rows as demonstrations, as in Sang et al.
2024. The student's loss and recipe play no part.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.demos import Demonstrations
from w2s.stages.setup import Setup
from w2s.types import Split


class Prompting(Method):
    """The strong base model reads labelled rows of `strong_train` and labels the others."""

    kind: Literal["prompting"] = "prompting"
    num_demos: int = Field(default=5, ge=0, le=64)
    """Demonstrations a prompt; 0 is zero-shot."""
    demo_labels: Literal["weak", "truth"] = "weak"
    """Whose labels the demonstrations carry: the weak supervisor's, or the ground truth (what a
    ceiling is to a student)."""
    selection: Literal["random", "nearest", "nearest_features"] = "random"
    """Random and balanced by class, or most similar to the row asked about: in its words, or in the
    strong model's features."""
    show_confidence: bool = False
    """Whether the supervisor's probability of its label is shown beside it."""

    @model_validator(mode="after")
    def _confidence_is_the_supervisors(self) -> Self:
        if self.show_confidence and (self.demo_labels == "truth" or self.num_demos == 0):
            raise ValueError(
                "show_confidence shows the supervisor's confidence in the labels of "
                f"demonstrations; found num_demos = {self.num_demos} and "
                f"demo_labels = {self.demo_labels!r}"
            )
        return self

    @property
    def label(self) -> str:
        """Short name for tables, such as `prompting(zero-shot)` or `prompting(3, truth)`."""
        if self.num_demos == 0:
            return "prompting(zero-shot)"
        default = type(self).model_fields["num_demos"].default
        words = [
            str(self.num_demos) if self.num_demos != default else "",
            "truth" if self.demo_labels == "truth" else "",
            self.selection if self.selection != "random" else "",
            "confidence" if self.show_confidence else "",
        ]
        changed = ", ".join(filter(None, words))
        return f"prompting({changed})" if changed else "prompting"

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Also `strong_train` where demonstrations carry the truth."""
        splits = super().truth_in_labels
        if self.demo_labels == "truth" and self.num_demos > 0:
            return frozenset({*splits, "strong_train"})
        return splits

    def supervision(self, setup: Setup) -> Stage:
        """The unaided weak supervisor."""
        return setup.supervisor()

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """The strong base model, prompted with rows that carry the labels."""
        if self.num_demos == 0:
            return setup.zero_shot(setup.strong)
        by_features = self.selection == "nearest_features"
        return setup.few_shot(
            setup.strong,
            Demonstrations(
                labels=(setup.truth("strong_train") if self.demo_labels == "truth" else labels),
                number=self.num_demos,
                selection="random" if self.selection == "random" else "nearest",
                neighbours=(
                    setup.features(setup.strong, setup.student_train) if by_features else None
                ),
                show_confidence=self.show_confidence,
                # Nothing is drawn for neighbours: where the labels are equal, so are replicates.
                seed=setup.seed if self.selection == "random" else 0,
            ),
        )
