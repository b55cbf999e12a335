"""The checkpoints of a running stage in the store: written beside the training, read by the next.

`StageCheckpoints` is what `w2s.training.checkpointing` asks for. A state becomes a folder of two
files, `state.safetensors` and `state.json`, which the store keeps as a whole or not at all. It is
written in a thread of its own, from copies, while training goes on; one that cannot be written
costs a warning and no training.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sweeps.store import ArtifactStore
from w2s.stages.base import Stage

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

TENSORS_FILE = "state.safetensors"
FACTS_FILE = "state.json"
LARGEST_SHARE = 0.05
"""Share of the time that training may stand still for checkpoints: large states are kept less
often."""


class StageCheckpoints:
    """Checkpoints of one attempt at a stage; `close` before the stage is committed."""

    def __init__(
        self,
        stage: Stage,
        store: ArtifactStore,
        every_s: float,
        *,
        writes: bool = True,
        extra: Callable[[], Any] = lambda: None,
        on_load: Callable[[Any], None] = lambda extra: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count time.

        Args:
            stage: what runs.
            store: where its state is kept until it is done.
            every_s: seconds from the start to the first checkpoint, and between two.
            writes: whether this process reads and writes; of several workers one does.
            extra: JSON value that is kept with a state.
            on_load: called with that value when a state is read.
            clock: seconds that only grow.
        """
        self._stage = stage
        self._store = store
        self._every_s = every_s
        self._clock = clock
        self._writes = writes
        self._extra = extra
        self._on_load = on_load
        self._next = clock() + every_s
        self._asked = 0.0
        self._writer: threading.Thread | None = None
        self._failed = False
        self._kept = False
        """Whether the store has a state of the stage, as far as this attempt knows."""

    def due(self) -> bool:
        """Whether the time is over and the last checkpoint is written."""
        self._asked = self._clock()
        if not self._writes or self._asked < self._next:
            return False
        return self._writer is None or not self._writer.is_alive()

    def save(self, tensors: "dict[str, Tensor]", facts: dict[str, Any]) -> None:
        """Begin to write a state."""
        text = json.dumps({"state": facts, "extra": self._extra()})
        self._writer = threading.Thread(
            target=self._write, args=(tensors, text), name="checkpoint", daemon=True
        )
        now = self._clock()
        stood_still_s = now - self._asked
        self._next = now + max(self._every_s, stood_still_s / LARGEST_SHARE)
        self._kept = True
        self._writer.start()

    def load(self) -> "tuple[dict[str, Tensor], dict[str, Any]] | None":
        """The state an earlier attempt left; one that cannot be read is none."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not self._writes:
            return None
        with self._store.scratch("checkpoint") as folder:
            if not self._store.load_partial(self._stage, folder):
                return None
            self._kept = True
            try:
                found = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
                # Copies: a loaded tensor may still be a view of the file.
                tensors = {n: t.clone() for n, t in load_file(folder / TENSORS_FILE).items()}
                facts, extra = found["state"], found["extra"]
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("stage=%s unreadable checkpoint: %s", self._stage.name, error)
                return None
        self._on_load(extra)
        log.info("stage=%s key=%s goes on from a checkpoint", self._stage.name, self._stage.key)
        return tensors, facts

    def close(self) -> None:
        """Wait until the last state is written."""
        if self._writer is not None:
            self._writer.join()

    def drop(self) -> None:
        """Remove what is kept: the stage is done, or its state is of no use."""
        self.close()
        if self._kept:
            self._store.drop_partial(self._stage)

    def _write(self, tensors: "dict[str, Tensor]", text: str) -> None:
        from safetensors.torch import save_file

        try:
            with self._store.scratch("checkpoint") as folder:
                save_file(tensors, folder / TENSORS_FILE)
                (folder / FACTS_FILE).write_text(text, encoding="utf-8")
                self._store.save_partial(self._stage, folder)
        except Exception:
            log.log(
                logging.DEBUG if self._failed else logging.WARNING,
                "stage=%s key=%s a checkpoint could not be written; training goes on",
                self._stage.name,
                self._stage.key,
                exc_info=True,
            )
            self._failed = True
