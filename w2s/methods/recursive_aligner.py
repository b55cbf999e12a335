"""The aligner keeps pace with its students: it is made anew from what they say.

Sang et al. (2024) name this as the second phase of weak-to-strong alignment and published no
algorithm; what stands here is ours. E_0 is any supervision. The student S_t learns E_t's labels of
`strong_train`. E_{t+1} learns S_t's labels of the same rows where they are confident and
consistent, and the ground truth of a few rows of `weak_train`, its anchor. It ends where agreement
of S_t with E_t on `val` no longer rises. No truth of `strong_train`, `val` or `test` takes part.
"""

from typing import Literal, NamedTuple

from pydantic import Field

from w2s.errors import UserError
from w2s.losses.xent import Xent
from w2s.methods._around import Around
from w2s.stages.base import Stage
from w2s.stages.recursion import AlignerLabels, Anchor, SelectedGeneration
from w2s.stages.setup import Setup
from w2s.tasks.base import shape_of
from w2s.types import TrainSplit

SEEDS_APART = 100_000
"""Between the seeds of an experiment's own trainings; no other experiment seed lies there."""


class Chain(NamedTuple):
    """Aligners, their students, and what was learnt between two aligners."""

    aligners: tuple[Stage, ...]
    students: tuple[Stage, ...]
    updates: tuple[AlignerLabels, ...]


class RecursiveAligner(Around):
    """Students and their aligner improve in turn (ours, after the plan of Sang et al. 2024).

    The method within gives the first aligner and the students' recipe. Stages are planned ahead, so
    all `num_updates` are computed; the report shows every generation.
    """

    kind: Literal["recursive_aligner"] = "recursive_aligner"
    num_updates: int = Field(default=2, ge=1, le=16)
    """Times that the aligner is made anew."""
    update: Literal["student", "aligner"] = "student"
    """Base model of the next aligner: the student's (the strong one, with its recipe and loss) or
    the first aligner's (the weak one, with the supervisors' recipe and cross-entropy)."""
    by: Literal["threshold", "top_share"] = "top_share"
    """Of a student's consistent labels the next aligner learns those above a confidence, or the
    most confident of each class."""
    threshold: float = Field(default=0.75, ge=0, le=1)
    """Lowest probability of the top class, for `by = "threshold"`."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the consistent rows of each class, for `by = "top_share"`."""
    consistent_with: Literal["aligner", "second_student"] = "aligner"
    """Who has to say the same about a row: the aligner that taught the student, or a second student
    with another seed."""
    num_anchor: int = Field(default=64, ge=1)
    """Rows of `weak_train` whose ground truth every aligner but the first learns, too. The arm
    `anchor alone` is the aligners' model with nothing else."""
    min_gain: float = Field(default=0.005, ge=0, lt=1)
    """Rise of held-out agreement, as a share of `val`, that counts as none when it is smaller."""

    def learn(self, setup: Setup, labels: Stage) -> Stage:
        """The student of the last generation before held-out agreement stalls.

        Raises:
            UserError: the anchor is larger than `weak_train`.
        """
        chain = self._chain(setup, labels)
        return SelectedGeneration(
            aligners=chain.aligners,
            students=chain.students,
            updates=chain.updates,
            min_gain=self.min_gain,
        )

    def arms(self, setup: Setup) -> dict[str, Stage]:
        """Aligner and student of every generation, 0 the method within; and the control."""
        chain = self._chain(setup, self.labels(setup))
        turns = {
            f"{role} {number}": stage
            for number, pair in enumerate(zip(chain.aligners, chain.students, strict=True))
            for role, stage in zip(("aligner", "student"), pair, strict=True)
        }
        alone = self._aligner(setup, self._anchor(setup), "weak_train", chain.aligners[0])
        return turns | {"anchor alone": alone}

    def _chain(self, setup: Setup, labels: Stage) -> Chain:
        num_rows = shape_of(setup.task).num_rows["weak_train"]
        if self.num_anchor > num_rows:
            raise UserError(
                f"recursive_aligner: an anchor of {self.num_anchor} rows, but weak_train has "
                f"{num_rows}; lower `num_anchor`"
            )
        aligners, students, updates = [labels], [self.of.learn(setup, labels)], []
        for number in range(1, self.num_updates + 1):
            aligner, student = aligners[-1], students[-1]
            other = aligner
            if self.consistent_with == "second_student":
                other = self.of.learn(_apart(setup, 2 * number), aligner)
            updates.append(
                AlignerLabels(
                    student=student,
                    other=other,
                    anchor=self._anchor(setup),
                    by=self.by,
                    threshold=self.threshold,
                    share=self.share,
                )
            )
            here = _apart(setup, 2 * number - 1)
            aligners.append(self._aligner(here, updates[-1], "both", updates[-1]))
            students.append(self.of.learn(setup, aligners[-1]))
        return Chain(tuple(aligners), tuple(students), tuple(updates))

    def _anchor(self, setup: Setup) -> Anchor:
        return Anchor(truth=setup.truth("weak_train"), num_rows=self.num_anchor, seed=setup.seed)

    def _aligner(self, setup: Setup, labels: Stage, split: TrainSplit, val_labels: Stage) -> Stage:
        by_student = self.update == "student"
        return setup.classifier(
            setup.strong if by_student else setup.weak,
            labels,
            split,
            recipe=setup.student_train if by_student else setup.supervisor_train,
            loss=setup.loss if by_student else Xent(),
            val_labels=val_labels,
        )


def _apart(setup: Setup, number: int) -> Setup:
    """The setup at another seed, which no replicate of the experiment has."""
    return setup.at_seed(setup.seed + SEEDS_APART * number)
