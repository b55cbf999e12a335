"""Supervisors of several models (Cui et al. 2024; Sang et al. 2024)."""

from typing import Literal

from w2s.errors import UserError
from w2s.methods._combined import Combined
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class FamilyEnsemble(Combined):
    """Several models, each finetuned as a supervisor, combined.

    The floor stays the weak model of the pair.
    """

    kind: Literal["family_ensemble"] = "family_ensemble"
    models: tuple[str, ...] = ()
    """Names of the models: rungs of the ladder, speakers, `weak` or `strong`; empty: the weak model
    and those between it and the strong one."""

    def each(self, setup: Setup) -> tuple[Stage, ...]:
        """A supervisor of each model.

        Raises:
            UserError: a model is not there, or there are fewer than two.
        """
        if self.models:
            models = [setup.named(name) for name in self.models]
        else:
            models = [setup.weak, *setup.between]
        if len(set(map(repr, models))) < 2:
            raise UserError(
                f"family_ensemble combines supervisors of two models or more; found "
                f"{', '.join(self.models) or 'the weak model, with none between it and the strong'}"
                f"; name some in `models`: weak, strong, "
                f"{', '.join([*setup.ladder, *setup.speakers])}"
            )
        return tuple(setup.supervisor(model=model) for model in models)
