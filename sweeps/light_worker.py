"""A process that runs `light` stages; it loads what these stages need and no more."""

from collections.abc import Sequence
from typing import Any

from sweeps.store import ArtifactStore
from sweeps.worker import Conditions, Outcome, forward_progress, run_stage
from w2s.stages.base import Stage


class LightWorker:
    """A process that runs `light` stages one after another."""

    def __init__(self, broker: Any, store: str) -> None:
        """Args: broker: gets progress. store: folder or URL of the artifacts."""
        self._broker = broker
        self._store = ArtifactStore(store)

    def run(self, stages: Sequence[Stage], timeout_s: float | None) -> list[Outcome]:
        """Run stages; an error of one leaves the others alone."""
        conditions = Conditions(timeout_s=timeout_s)
        return [
            run_stage(stage, self._store, conditions, forward_progress(self._broker, stage.key))
            for stage in stages
        ]
