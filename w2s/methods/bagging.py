"""Bagging over rows, features and layers (Breiman 1996; Ho 1998; Sang et al. 2024, bagging)."""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from w2s.errors import UserError
from w2s.methods._combined import MAX_MEMBERS, Combined, learning_from, member_seeds
from w2s.methods.base import Method
from w2s.spec import OneOf, parse
from w2s.stages.base import Stage
from w2s.stages.resample import ResampledTruth
from w2s.stages.setup import Setup
from w2s.training.config import TrainConfig
from w2s.types import Split


class Bagging(Combined):
    """Supervisors that each learn a sample of the rows, or read a part of the model, combined.

    Members differ in that and in nothing else: seeds and debates are the experiment's.
    """

    kind: Literal["bagging"] = "bagging"
    of: OneOf[Method] = Field(default_factory=lambda: parse(Method, "naive"))
    """The method whose supervisor is bagged; the unaided one by default."""
    over: Literal["rows", "features", "layers"] = "rows"
    """What members differ in: the rows they learn, the hidden dimensions their head reads, or the
    layer it reads."""
    num_members: int = Field(default=8, ge=2, le=MAX_MEMBERS)
    """Supervisors; over layers, as many as `layers`."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Over rows: groups drawn for a member, as a share of all."""
    replace: bool = True
    """Over rows: whether a group can be drawn more than once (a bootstrap)."""
    feature_share: float = Field(default=0.5, gt=0, lt=1)
    """Over features: hidden dimensions that a member's head reads, as a share of all; Sang et al.
    have 0.1, 0.3, 0.5 and 0.7."""
    layers: tuple[int, ...] = ()
    """Over layers: the number of the block after which each member's model is cut off, its head
    reading there. Sang et al. have 10 to 25 of gpt2-medium."""

    @property
    def truth_in_labels(self) -> frozenset[Split]:
        """Those of the method within, too."""
        return super().truth_in_labels | self.of.truth_in_labels

    @property
    def truth_in_contexts(self) -> frozenset[Split]:
        """Those of the method within."""
        return self.of.truth_in_contexts

    def contexts(self, setup: Setup) -> tuple[Stage, ...]:
        """Those of the method within."""
        return self.of.contexts(setup)

    def samples(self, setup: Setup) -> tuple[Stage, ...]:
        """The rows of each member."""
        if self.over != "rows":
            return ()
        return tuple(
            ResampledTruth(
                labels=setup.weak_truth,
                prompts=setup.prompts,
                share=self.share,
                replace=self.replace,
                seed=seed,
            )
            for seed in member_seeds(setup.seed, self.num_members)
        )

    def each(self, setup: Setup) -> tuple[Stage, ...]:
        """The supervisors.

        Raises:
            UserError: the fields leave all members the same, or the method within learns nothing
                from `weak_train`.
        """
        self._check()
        if self.over == "rows":
            return tuple(learning_from(self.of, setup, sample) for sample in self.samples(setup))
        return tuple(
            self.of.supervision(replace(setup, supervisor_train=recipe))
            for recipe in self._recipes(setup)
        )

    def _recipes(self, setup: Setup) -> list[TrainConfig]:
        """The supervisor's recipe for each member, with another view of the model."""
        recipe = setup.supervisor_train
        if self.over == "layers":
            return [recipe.reading(layer=layer) for layer in self.layers]
        seeds = member_seeds(setup.seed, self.num_members)
        return [recipe.reading(share=self.feature_share, seed=seed) for seed in seeds]

    def _check(self) -> None:
        if self.over == "rows" and self.share == 1 and not self.replace:
            raise UserError(
                "bagging over all rows without replacement gives every member the same rows; lower "
                "`share` or set `replace = true`"
            )
        if self.over == "layers" and len(set(self.layers)) < max(2, len(self.layers)):
            raise UserError(
                "bagging over layers needs two different `layers` or more; found "
                f"{', '.join(map(str, self.layers)) or 'none'}"
            )
        if self.over != "layers" and self.layers:
            raise UserError(f'`layers` goes with over = "layers"; found over = "{self.over}"')
