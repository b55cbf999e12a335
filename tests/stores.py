"""Small artifacts to store, damage and find, without any of the heavy imports."""

import os
import subprocess
import sys
from pathlib import Path

from sweeps.events import CurvePoint, StageRecord
from sweeps.store import ArtifactStore
from w2s.errors import StoreError as StoreError
from w2s.stages.base import Stage, StageContext

ROOT = Path(__file__).parent.parent


class Item(Stage):
    """A light stage that writes a line of text."""

    value: int = 0
    """What it writes."""
    inputs_: tuple["Item", ...] = ()
    """What it reads."""

    @property
    def name(self) -> str:
        return f"item {self.value}"

    def run(self, context: StageContext) -> None:
        found = [(context.path(item) / "item.txt").read_text() for item in self.inputs_]
        (context.output_dir / "item.txt").write_text("".join([*found, f"{self.value}\n"]))


def record(stage: Stage, curve: tuple[CurvePoint, ...] = ()) -> StageRecord:
    """A record of a stage that took 2.5 seconds."""
    return StageRecord(
        key=stage.key,
        name=stage.name,
        kind=stage.kind,
        identity=stage.identity(),
        started=10.0,
        finished=12.5,
        host="here",
        curve=curve,
    )


def put(store: ArtifactStore, stage: Stage, text: str = "text", **more: str) -> None:
    """Commit an artifact with the files `item.txt`, `deep/more.txt` and others."""
    with store.workspace(stage) as folder:
        (folder / "item.txt").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "more.txt").write_text("more")
        for name, content in more.items():
            (folder / name).write_text(content)
        store.commit(stage, folder, record(stage))


def python(script: str, *arguments: str, prefix: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """A process that runs a script with the names of this module."""
    start = "import os, sys\nfrom pathlib import Path\nfrom tests.stores import *\n"
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", start + script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
