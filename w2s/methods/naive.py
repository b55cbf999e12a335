"""Naive weak-to-strong finetuning: the student learns the supervisor's soft labels.

Burns et al. 2023, section 3.
"""

from typing import Literal

from w2s.methods.base import Method
from w2s.stages.base import Stage
from w2s.stages.setup import Setup


class Naive(Method):
    """One weak supervisor, nothing else; with equal models it is the weak = strong control."""

    kind: Literal["naive"] = "naive"

    def supervision(self, setup: Setup) -> Stage:
        """The unaided weak supervisor."""
        return setup.supervisor()
